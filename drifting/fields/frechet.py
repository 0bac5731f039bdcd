"""The Frechet distance of features, and the field that goes down it (arXiv 2604.28190, FD-loss).

    FD = |mu_q - mu_p|^2 + Tr(S_q) + Tr(S_p) - 2 Tr((S_p^1/2 S_q S_p^1/2)^1/2)

mu and S are the mean and the covariance of the features of generated samples (q) and of reals (p).
FD is the squared distance by which optimal transport moves one normal distribution to the other,
and minus its gradient is that motion:

    V(x) = T(x) - x,    T(x) = mu_p + A (x - mu_q),    A = R (R S_q R)^-1/2 R,  R = S_p^1/2

With mu_q and S_q of N samples, V(x_i) = -(N / 2) dFD / dx_i. A step has too few samples for a
covariance, so its moments are running ones, m <- b m + (1 - b) mean, of which the newest part alone
has a gradient: -(2 (1 - b) / N) V(x_i). The factor changes nothing, since V is normalised (A.6).

A set of several locations is one distribution of all its vectors.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from drifting.memory import Memory, Reals, Recalled, Seen
from drifting.problems import by_width, of_each_problem

EXACT = jax.lax.Precision.HIGHEST


# ---------------------------------------------------------------- the distance and its field


def frechet_field(
    x: Float[Array, "N D"],
    pos: Float[Array, "P D"],
    neg: Float[Array, "M D"],
    weight_pos: Float[Array, " P"],
    weight_neg: Float[Array, " M"],
    tau,
    self_neg: int,
    unit=1.0,
    *,
    mean_gen: Float[Array, " D"],
    mean_real: Float[Array, " D"],
    transport: Float[Array, "D D"],
) -> tuple[Float[Array, "N D"], Float[Array, " N"]]:
    """V = mu_p + A (x - mu_q) - x. The arguments are explained in `drifting.fields`.

    The samples of the step enter through their moments alone, and temperatures not at all.

    Args:
        mean_gen, mean_real: mu_q and mu_p.
        transport: A.
    """
    centred = x - mean_gen
    moved = jnp.matmul(centred, transport.T, precision=EXACT)
    v = (mean_real - mean_gen) + moved - centred
    return v, jnp.full(x.shape[0], jnp.sum(weight_pos > 0), x.dtype)


def transport_map(
    covariance: Float[Array, "*B D D"], root: Float[Array, "*B D D"]
) -> tuple[Float[Array, "*B D D"], Float[Array, "*B"]]:
    """Returns A = R (R S_q R)^-1/2 R and Tr((R S_q R)^1/2).

    Where q has no variance, to rounding, A takes its vectors to nothing.

    Args:
        covariance: S_q.
        root: R = S_p^1/2, symmetric.
    """
    product = _multiply(root, _multiply(covariance, root))
    values, vectors = jnp.linalg.eigh((product + jnp.swapaxes(product, -1, -2)) / 2)
    rounding = values.shape[-1] * jnp.finfo(values.dtype).eps * values[..., -1:]
    inverse_root = jnp.where(values > rounding, jax.lax.rsqrt(jnp.maximum(values, 1e-30)), 0)
    factor = _multiply(root, vectors)
    transport = _multiply(factor * inverse_root[..., None, :], jnp.swapaxes(factor, -1, -2))
    return transport, jnp.sum(jnp.sqrt(jnp.maximum(values, 0)), -1)


def _multiply(a: Float[Array, "*B D D"], b: Float[Array, "*B D D"]) -> Float[Array, "*B D D"]:
    return jnp.matmul(a, b, precision=EXACT)


# ---------------------------------------------------------------- the moments


@dataclasses.dataclass(frozen=True)
class Moments(Memory):
    """The moments of the reals, and the running ones of the generated samples.

    The state has, for each width D of features, its S sets, and G classes (or one for all):

        real  {"mean": [G, S, D], "root": [G, S, D, D]}, of all reals
        gen   {"mean": [G, S, D], "second": [G, S, D, D]}, of x - mu_p, times their weight
        weight    [G]: 1 - b^n after n steps of a class, as in Adam
        checksum  of what the moments of the reals were computed from

    Features lie about mu_p, so the second moment loses no digits to the mean in float32.
    """

    moments: str  # "class": of each class; "all": of all samples together
    moment_decay: float  # b

    @property
    def knows_reals(self) -> bool:
        return True

    def init(self, key: jax.Array, sets: dict[str, Any], n_classes: int) -> dict[str, Any]:
        n_groups = n_classes if self.moments == "class" else 1
        real, gen = {}, {}
        for width, names in by_width(sets).items():
            d = int(width)
            mean = (n_groups, len(names), d)
            real[width] = {"mean": jnp.zeros(mean), "root": jnp.zeros((*mean, d))}
            gen[width] = {"mean": jnp.zeros(mean), "second": jnp.zeros((*mean, d))}
        weight = jnp.zeros(n_groups)
        return {"real": real, "gen": gen, "weight": weight, "checksum": jnp.uint32(0)}

    def fill(self, state: dict[str, Any], reals: Reals) -> dict[str, Any]:
        """Computes the moments of the reals in float64; covariances are divided by n.

        Those of the generated samples begin anew, since they lie about the mean of the reals.
        """
        count = np.zeros(len(state["weight"]))
        total: Any = collections.defaultdict(float)
        second: Any = collections.defaultdict(float)
        features: dict[str, Any] = {}
        for features, labels in reals():
            if self.moments == "all":
                labels = np.zeros_like(labels)
            for group in np.unique(labels):
                mine = labels == group
                count[group] += mine.sum()
                for name, values in features.items():
                    rows = np.float64(values[mine])
                    rows = rows.reshape(-1, values.shape[2])
                    total[group, name] += rows.sum(0)
                    second[group, name] += rows.T @ rows
        locations = {name: values.shape[1] for name, values in features.items()}

        moments = []
        for group, n_images in enumerate(count):
            of_group = {}
            for name, n_locations in locations.items():
                n = n_images * n_locations
                mean = total[group, name] / n
                covariance = second[group, name] / n - np.outer(mean, mean)
                of_group[name] = mean, covariance
            moments.append(of_group)
        return self.know(state, moments)

    def know(
        self,
        state: dict[str, Any],
        moments: Sequence[dict[str, tuple[np.ndarray, np.ndarray]]],
    ) -> dict[str, Any]:
        """Returns the state that knows these moments of the reals.

        moments: {feature set: (mean [D], covariance [D, D])} of each group.
        """
        widths: dict[str, list[str]] = {}
        for name, (mean, _) in sorted(moments[0].items()):
            widths.setdefault(str(len(mean)), []).append(name)
        real = {}
        for width, names in widths.items():
            of_sets = [of_group[name] for of_group in moments for name in names]
            shape = (len(moments), len(names), int(width))
            means = np.stack([mean for mean, _ in of_sets]).reshape(shape)
            roots = np.stack([_root(covariance) for _, covariance in of_sets])
            real[width] = {
                "mean": means.astype(np.float32),
                "root": roots.reshape(*shape, int(width)).astype(np.float32),
            }
        gen, weight = jax.tree.map(np.zeros_like, (state["gen"], state["weight"]))
        return state | {"real": real, "gen": gen, "weight": weight}

    def look(
        self, state: dict[str, Any], key: jax.Array, seen: Seen
    ) -> tuple[dict[str, Any], dict[str, Recalled]]:
        is_one = self.moments == "all"
        group = jnp.zeros_like(seen.labels) if is_one else seen.labels  # [C]
        n_classes = len(seen.labels)
        count = jnp.zeros_like(state["weight"]).at[group].add(1.0)  # [G]
        observed = {"count": count, "mean": {}, "second": {}}
        recalled, distances = {}, []
        for width, names in by_width(seen.gen).items():
            real = state["real"][width]
            means, seconds = [], []
            for i, name in enumerate(names):
                by_class = seen.layout.split(seen.gen[name].astype(jnp.float32), n_classes)
                rows = rearrange(seen.layout.classes(by_class), "c n t d -> c (n t) d")
                rows = rows - real["mean"][group, i][:, None]
                means.append(jnp.mean(rows, 1))
                outer = jnp.einsum("cnd,cne->cde", rows, rows, precision=EXACT)
                seconds.append(outer / rows.shape[1])
            # The sums over the classes of each group: [G, S, D] and [G, S, D, D].
            mean = jnp.zeros_like(real["mean"]).at[group].add(jnp.stack(means, 1))
            second = jnp.zeros_like(real["root"]).at[group].add(jnp.stack(seconds, 1))
            observed["mean"][width], observed["second"][width] = mean, second

            after, weight = self._after(state, width, count, mean, second)
            scale = 1 / jnp.maximum(weight, 1e-30)[:, None, None]
            mean = after["mean"] * scale  # about mu_p
            covariance = after["second"] * scale[..., None]
            covariance = covariance - mean[..., :, None] * mean[..., None, :]
            # In the step's classes alone, [C, ...].
            mean, covariance, root = mean[group], covariance[group], real["root"][group]
            transport, root_trace = transport_map(covariance, root)
            variance = jnp.trace(covariance, axis1=-2, axis2=-1) + jnp.sum(root**2, (-2, -1))
            distances.append(jnp.sum(mean**2, -1) + variance - 2 * root_trace)  # [C, S]
            mean_real = real["mean"][group]
            each = {
                "mean_gen": mean_real + mean,
                "mean_real": mean_real,
                "transport": transport,
            }
            recalled[width] = Recalled(
                each={k: of_each_problem(v, names, seen.gen) for k, v in each.items()}
            )
        observed["distance"] = jnp.mean(jnp.concatenate(distances, 1))
        return observed, recalled

    def _after(self, state, width, count, mean, second):
        """Returns the running sums of a width, and their weights, after one more step.

        count, mean, second: how many classes were seen of each group, and the sums of their
        moments.
        """
        b = jnp.where(count > 0, self.moment_decay, 1.0)  # [G]
        share = (1 - b) / jnp.maximum(count, 1e-30)
        before = state["gen"][width]
        after = {
            "mean": b[:, None, None] * before["mean"] + share[:, None, None] * mean,
            "second": b[:, None, None, None] * before["second"]
            + share[:, None, None, None] * second,
        }
        return after, b * state["weight"] + (1 - b)

    def update(
        self, state: dict[str, Any], observed: dict[str, Any], stats: Sequence[Any] = ()
    ) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        gen, weight = {}, state["weight"]
        for width in state["gen"]:
            moments = (observed["mean"][width], observed["second"][width])
            gen[width], weight = self._after(state, width, observed["count"], *moments)
        metrics = {"frechet_distance": observed["distance"]}
        return state | {"gen": gen, "weight": weight}, metrics

    def describe(self, state: dict[str, Any]) -> str:
        size = sum(int(np.prod(a.shape)) * 4 for a in jax.tree.leaves(state))
        return f"{size / 1e6:.1f} MB of moments"


def _root(covariance: Float[np.ndarray, "D D"]) -> Float[np.ndarray, "D D"]:
    """Returns the symmetric root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
