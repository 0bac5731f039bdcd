"""From a stream of images to what the metrics need, over all devices and processes."""

import logging
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, UInt8
from numpy import ndarray

from metrics.evidence import Evidence
from metrics.fid import Moments
from metrics.networks import Network
from utils.errors import UserError
from utils.processes import concatenate_all
from utils.sharding import replicated

log = logging.getLogger(__name__)

# Rows of an update of the covariance, so that results do not depend on how the stream was cut.
BLOCK = 4096

# Images that a network sees at once on a CPU. More take more memory, and no less time: 256 images
# of 256x256 took 12.6 GB in Inception.
ROWS_ON_A_CPU = 32

# Values beyond ±OUTSIDE are clipped, of course; a little beyond ±1 is usual. From this part of the
# values on, a warning says so; from the larger part on, they are taken for something else.
OUTSIDE = 1.5
PART_FOR_WARNING = 0.01
PART_FOR_ERROR = 0.5

# What a network gives for a batch, by name: "features", and "logits" if any.
Outputs = dict[str, Array | ndarray]


def collect(
    network: Network,
    images: Iterable[ndarray],
    batch_size: int,
    with_features: bool,
    sharding: NamedSharding | None = None,
) -> Evidence:
    """Runs a network over a stream of images, and joins what all processes have found.

    All processes must call it. Counts are exact.

    Args:
        network: What images become.
        images: Batches [<= batch_size,H,W,C] of this process, uint8 or in [-1, 1].
        batch_size: Of the program that is compiled; smaller batches are filled up.
        with_features: Whether the features are kept. Logits always are.
        sharding: Of the leading axis over this process's devices; it must divide `batch_size`.
            None for one device.

    Raises:
        UserError: In all processes, for samples that are not finite or no images in [-1, 1].
    """
    collector = Collector(network, batch_size, with_features, sharding)
    for batch in images:
        collector.add(batch)
    return collector.result()


class Collector:
    """What `collect` does, a batch at a time; several of them share one stream of images.

    Args:
        network, batch_size, with_features, sharding: As of `collect`.
        ahead: Whether `add` returns while the devices work, so that the host reads the next batch
            meanwhile.
    """

    def __init__(
        self,
        network: Network,
        batch_size: int,
        with_features: bool,
        sharding: NamedSharding | None = None,
        ahead: bool = True,
    ):
        self.network = network
        self.batch_size = batch_size
        self.with_features = with_features
        self.sharding = sharding
        self.ahead = ahead
        self.params = network.params
        if sharding is not None and self.params is not None:
            self.params = jax.device_put(self.params, replicated(sharding.mesh))
        self.at_once = most_at_once(batch_size, sharding)
        self._values = ValueRange()
        self._moments = BlockedMoments()
        self._features: list[ndarray] = []
        self._logits: list[ndarray] = []
        self._queued: list[Outputs] = []  # of the last batch, on the devices
        self._n_queued = 0

    def add(self, batch: ndarray) -> None:
        """Runs the network over a batch [<= batch_size,H,W,C] of this process."""
        if not self._values.accept(batch):
            return
        queued = self._queue(batch)
        self._keep_queued()
        self._queued, self._n_queued = queued, len(batch)
        if not self.ahead:
            self._keep_queued()

    def _queue(self, batch: ndarray) -> list[Outputs]:
        """Returns what the network makes of a batch, a part after the other; the last is filled."""
        if self.network.params is None:  # It runs on the host.
            return [self.network.features(self.params, to_float(batch))]
        found = []
        for start in range(0, len(batch), self.at_once):
            part = batch[start : start + self.at_once]
            # Filled up with the last image, so that one program serves all. A copy is made in any
            # case: the devices may read it after the caller has reused the batch.
            part = np.concatenate([part, np.repeat(part[-1:], self.at_once - len(part), 0)])
            placed = part if self.sharding is None else jax.device_put(part, self.sharding)
            found.append(self.network.features(self.params, quantise(placed)))
        return found

    def _keep_queued(self) -> None:
        """Waits for the outputs of the last batch, if there was one, and keeps them."""
        if not self._queued:
            return
        found = {}
        for name in self._queued[0]:
            parts = [np.asarray(outputs[name]) for outputs in self._queued]
            found[name] = np.concatenate(parts)[: self._n_queued]
        self._queued = []
        self._moments.update(found["features"])
        if self.with_features:
            self._features.append(found["features"])
        if "logits" in found:
            self._logits.append(found["logits"])

    def result(self) -> Evidence:
        """Returns what all processes have found, which must all call it; errors as `collect`."""
        n = self._values.check()
        self._keep_queued()
        if np.min(concatenate_all(np.array([self._values.n_samples]))) == 0:
            raise UserError("no samples to score: give at least two for each process")
        mu, sigma = join(self._moments.result()).result()
        features, logits = _join_rows(self._features), _join_rows(self._logits)
        self._features, self._logits = [], []
        return Evidence(n, mu, sigma, features, logits)


# ---------------------------------------------------------------- one batch


def most_at_once(batch_size: int, sharding: NamedSharding | None) -> int:
    """Returns the images of one call of the network, for batches of at most `batch_size`.

    An accelerator takes the batch whole. A CPU takes it in even parts, of at most ROWS_ON_A_CPU
    images on each device.
    """
    if jax.default_backend() != "cpu":
        return batch_size
    devices = 1 if sharding is None else sharding.num_devices
    of_a_device = math.ceil(batch_size / devices)
    n_parts = math.ceil(of_a_device / ROWS_ON_A_CPU)
    return devices * math.ceil(of_a_device / n_parts)


def to_float(batch: ndarray) -> Float[ndarray, "B H W C"]:
    """Returns images as float64 in about [-1, 1]."""
    if batch.dtype == np.uint8:
        return batch.astype(np.float64) / 127.5 - 1
    return batch.astype(np.float64)


@jax.jit
def quantise(batch: Array | ndarray) -> UInt8[Array | ndarray, "B H W C"]:
    """Returns images as uint8, as they are in files.

    It is done on the device: a core of the host does 300 images of 256 x 256 a second.
    """
    if batch.dtype == np.uint8:
        return batch
    clipped = jnp.clip(batch.astype(jnp.float32), -1, 1)
    return jnp.round((clipped + 1) * 127.5).astype(jnp.uint8)


# ---------------------------------------------------------------- values that are no images


class ValueRange:
    """Counts samples, and values that are not finite or far outside [-1, 1]."""

    def __init__(self):
        self.n_samples = 0
        self.n_not_finite = 0  # samples
        self.n_values = 0  # of floats
        self.n_outside = 0  # values

    def accept(self, batch: ndarray) -> bool:
        """Counts a batch, and returns whether it is worth to go on with it."""
        self.n_samples += len(batch)
        if batch.dtype == np.uint8:
            return True
        # The counts below take longer than this, and are rarely needed.
        largest = max(-batch.min(), batch.max())
        if not np.isfinite(largest):
            self.n_not_finite += int((~np.isfinite(batch)).any(axis=(1, 2, 3)).sum())
        if self.n_not_finite:
            return False
        self.n_values += batch.size
        if largest > OUTSIDE:
            self.n_outside += int((np.abs(batch) > OUTSIDE).sum())
        return True

    def check(self) -> int:
        """Returns the samples of all processes.

        Raises UserError for samples that are not finite or no images, and warns of many values
        that are clipped; all processes do the same.
        """
        counts = (self.n_samples, self.n_not_finite, self.n_outside, self.n_values)
        n_samples, n_not_finite, n_outside, n_values = totals(*counts)
        if n_not_finite:
            raise UserError(
                f"{n_not_finite} of {n_samples} samples are not finite; the checkpoint is broken, "
                "choose an earlier one with --step"
            )
        if n_outside > PART_FOR_ERROR * n_values:
            raise UserError(
                f"{n_outside / n_values:.0%} of the values lie outside [-1.5, 1.5]; expected "
                "images in [-1, 1]: are these latents, or 0 to 255?"
            )
        if n_outside > PART_FOR_WARNING * n_values:
            log.warning(
                "%.1f%% of the values lie outside [-1.5, 1.5] and are clipped to [-1, 1]: the "
                "generator is young, or broken",
                100 * n_outside / n_values,
            )
        return n_samples


# ---------------------------------------------------------------- over batches and processes


class BlockedMoments:
    """`Moments` that are updated by BLOCK rows at a time, whatever the batches are."""

    def __init__(self):
        self.moments: Moments | None = None
        self.rows: list[ndarray] = []  # not yet in the moments

    def update(self, features: Float[ndarray, "B D"]):
        """Adds a batch."""
        if self.moments is None:
            self.moments = Moments(features.shape[1])
        self.rows.append(features)
        if sum(len(rows) for rows in self.rows) < BLOCK:
            return
        rows = np.concatenate(self.rows)
        n_whole = len(rows) // BLOCK * BLOCK
        for start in range(0, n_whole, BLOCK):
            self.moments.update(rows[start : start + BLOCK])
        self.rows = [rows[n_whole:]]

    def result(self) -> Moments:
        """Returns the moments of everything, of which there must be some."""
        assert self.moments is not None
        self.moments.update(np.concatenate(self.rows))
        self.rows = []
        return self.moments


def join(moments: Moments) -> Moments:
    """Returns the moments of all processes, the same in each."""
    count, mean, scatter = moments.state()
    counts = concatenate_all(np.atleast_1d(count))
    means, scatters = concatenate_all(mean), concatenate_all(scatter)
    merged = Moments(mean.size)
    for (one_count,), one_mean, one_scatter in zip(counts, means, scatters, strict=True):
        merged.merge(Moments.from_state(one_count, one_mean, one_scatter))
    return merged


def totals(*counts: int) -> list[int]:
    """Returns the sums of counts over the processes."""
    of_all = concatenate_all(np.array([counts], np.int64))  # of each process, [1, counts]
    return np.sum(of_all, axis=(0, 1)).tolist()


def _join_rows(batches: list[ndarray]) -> ndarray | None:
    """Returns the rows of all batches of all processes; None if none were kept."""
    if not batches:
        return None
    return np.concatenate(concatenate_all(np.concatenate(batches)))
