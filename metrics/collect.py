"""From a stream of images to what the metrics need, over all devices and processes, with exact counts."""

import logging
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from metrics.fid import Moments
from metrics.networks import Network
from utils.errors import UserError
from utils.processes import concatenate_all

log = logging.getLogger(__name__)
BLOCK = 4096  # rows per update of the covariance: results do not depend on how the stream was cut
OUTSIDE, CLIPPED = (
    1.5,
    0.01,
)  # a warning from this share of values beyond +-1.5 on; a little beyond +-1 is usual


class Evidence(NamedTuple):
    """One set of images, as the metrics see it. features [N,D] and logits [N,K] in the order of the samples, where they were kept."""

    count: int
    mu: Float[ndarray, " D"]
    sigma: Float[ndarray, "D D"]
    features: ndarray | None = None
    logits: ndarray | None = None


def collect(
    network: Network, images: Iterable[ndarray], batch_size: int, keep: bool, sharding=None
) -> Evidence:
    """Runs the network over batches [<= batch_size,H,W,C], uint8 or in [-1, 1], of this process's share, and joins the shares.

    keep: whether features are kept too; logits always are. sharding: of the leading axis over this process's devices; it must divide batch_size.
    All processes must call it. Raises UserError, in all of them, for samples that are not finite or not images in [-1, 1].
    """
    total, rows, kept, logits = None, [], [], []
    seen = bad = wild = values = 0
    params = (
        network.params
        if sharding is None or network.params is None
        else jax.device_put(network.params, replicated(sharding))
    )
    for batch in images:
        n = len(batch)
        seen += n
        if batch.dtype != np.uint8:
            largest = max(
                -batch.min(), batch.max()
            )  # the counts below take longer, and are rarely needed
            bad += (
                0 if np.isfinite(largest) else int((~np.isfinite(batch)).any(axis=(1, 2, 3)).sum())
            )
            if bad:
                continue
            wild += int((np.abs(batch) > OUTSIDE).sum()) if largest > OUTSIDE else 0
            values += batch.size
        if network.params is None:
            x = to_float(batch)
        else:  # the last batch is filled up: one program serves all
            x = (
                np.concatenate([batch, np.repeat(batch[-1:], batch_size - n, 0)])
                if n < batch_size
                else batch
            )
            x = quantise(x if sharding is None else jax.device_put(x, sharding))
        out = {k: np.asarray(v)[:n] for k, v in network.features(params, x).items()}
        total = total or Moments(out["features"].shape[1])
        rows.append(out["features"])
        if sum(map(len, rows)) >= BLOCK:
            rows = update(total, np.concatenate(rows))
        if keep:
            kept.append(out["features"])
        if "logits" in out:
            logits.append(out["logits"])
    check(seen, bad, wild, values)
    if total is None:
        raise UserError("no samples to score: give at least two for each process")
    if rows:
        total.update(np.concatenate(rows))
    mu, sigma = join(total).result()
    whole = lambda parts: np.concatenate(concatenate_all(np.concatenate(parts))) if parts else None
    return Evidence(*totals(seen), mu, sigma, whole(kept), whole(logits))


def to_float(batch: ndarray) -> ndarray:
    """float64 in about [-1, 1]."""
    return (
        batch.astype(np.float64) / 127.5 - 1
        if batch.dtype == np.uint8
        else batch.astype(np.float64)
    )


@jax.jit
def quantise(batch):
    """uint8, as images are in files; on the device, as a core of the host does 300 images of 256 x 256 a second."""
    return (
        batch
        if batch.dtype == np.uint8
        else jnp.round((jnp.clip(batch.astype(jnp.float32), -1, 1) + 1) * 127.5).astype(jnp.uint8)
    )


def update(total: Moments, rows: ndarray) -> list[ndarray]:
    """Adds whole blocks; returns what is left."""
    whole = len(rows) // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        total.update(rows[start : start + BLOCK])
    return [rows[whole:]] if whole < len(rows) else []


def join(total: Moments) -> Moments:
    """The moments of all processes, the same in each."""
    parts = [concatenate_all(np.atleast_1d(part)) for part in total.state()]  # 3 x processes
    merged = Moments(total.mean.size)
    for (count,), mean, scatter in zip(*parts):
        merged.merge(Moments.from_state(count, mean, scatter))
    return merged


def check(seen: int, bad: int, wild: int, values: int) -> None:
    """Refuses samples that are not finite or no images; warns of many that have to be clipped. The same in all processes."""
    seen, bad, wild, values = totals(seen, bad, wild, values)
    if bad:
        raise UserError(
            f"{bad} of {seen} samples are not finite; the checkpoint is broken, choose an earlier one with --step"
        )
    if wild > 0.5 * values:
        raise UserError(
            f"{wild / values:.0%} of the values lie outside [-1.5, 1.5]; expected images in [-1, 1]: are these latents, or 0 to 255?"
        )
    if wild > CLIPPED * values:
        log.warning(
            "%.1f%% of the values lie outside [-1.5, 1.5] and are clipped to [-1, 1]: the generator is young, or broken",
            100 * wild / values,
        )


def totals(*counts: int) -> list[int]:
    """Sums over the processes."""
    return np.sum(concatenate_all(np.array([counts], np.int64)), axis=(0, 1)).tolist()


def replicated(sharding):
    return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
