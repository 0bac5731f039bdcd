"""The flow of the squared maximum mean discrepancy (MMD) between generated samples and data.

    MMD^2 = mean_{i != j} k(x_i, x_j) - 2 mean_{i, p} k(x_i, y_p) + a term of the data alone

The first mean leaves out pairs of a sample with itself, which makes it unbiased (a U-statistic,
Gretton et al. 2012). For N generated samples the field is V_i = -(N / 2) l^2 dMMD^2 / dx_i, with l
the length of the kernel. A mean over y estimates an expectation without a ratio, so V has no bias
of the number of samples.

The attraction can also be that of all reals of a class, by their mean embedding, frozen at m
landmarks z, which are reals themselves (Nystroem's approximation; arXiv 2607.02375):

    mean_p k(x, y_p)  ~  sum_m w_m k(x, z_m),    K_zz w = mean_p k(z, y_p),  sum w = 1

Its gradient has the same form as before, with weights w of either sign. Where a class has no more
than m reals, all are landmarks, w = 1 / n, and nothing is approximated.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from drifting.distances import MASKED, distance, log_weight, perplexity
from drifting.memory import Memory, Reals, Recalled, Seen
from drifting.problems import by_width, of_each_problem

# Pairs nearer than this share of a typical distance attract in proportion to their distance. The
# direction between them would be rounding: a collapsed generator must not be pulled apart by it.
NEAREST = 1e-3
# Added to the diagonal of K_zz, whose entries are about 1. It bounds the weights, which would
# otherwise grow with opposite signs where landmarks are alike, and lose digits in float32.
RIDGE = 1e-6


# ---------------------------------------------------------------- the field


def log_force(r: Float[Array, "N M"], kernel: str, tau, unit) -> Float[Array, "N M"]:
    """Returns log(l^2 |dk / dr|) of pairs at distance r > 0; a force is a length.

    laplace:   k = exp(-r / l)            l = tau unit          l^2 |dk / dr| = l k
    gaussian:  k = exp(-r^2 / (2 l^2))    l = sqrt(tau) unit    l^2 |dk / dr| = r k
    energy:    k = -r / l                 l = unit              l^2 |dk / dr| = l
    """
    if kernel == "laplace":
        return jnp.log(tau * unit) - r / (tau * unit)
    if kernel == "gaussian":
        return jnp.log(r) - r**2 / (2 * tau * unit**2)
    return jnp.zeros_like(r) + jnp.log(unit)


def mmd_field(
    x: Float[Array, "N D"],
    pos: Float[Array, "P D"],
    neg: Float[Array, "M D"],
    weight_pos: Float[Array, " P"],
    weight_neg: Float[Array, " M"],
    tau,
    self_neg: int,
    unit=1.0,
    *,
    kernel: str = "laplace",
    attraction: float = 1.0,
    repulsion: float = 1.0,
    z: Float[Array, "m D"] | None = None,
    weight_z: Float[Array, " m"] | None = None,
    unit_z: Any = None,
) -> tuple[Float[Array, "N D"], Float[Array, " N"]]:
    """V = sum_+ b f(|y - x|) (y - x) / |y - x|, less the same sum over the negatives.

    f is the force of the kernel and the b of either side sum to 1. The attraction is exact where
    pos are all reals of the class. The arguments are explained in `drifting.fields`.

    Args:
        kernel: "laplace", "gaussian", or "energy", k = -|x - y|, which has no width and takes no
            notice of tau.
        z: landmarks, which then attract in the place of pos; or None.
        weight_z: of the landmarks, of either sign, summing to 1.
        unit_z: the length of a typical distance that these belong to, in the place of unit.
    """
    unit = unit if unit_z is None else unit_z

    def towards(y, a):
        """Returns sum_y a (y - x). A common offset would cancel digits."""
        centre = jnp.mean(y, 0)
        of_y = jnp.matmul(a, y - centre, precision=jax.lax.Precision.HIGHEST)
        return of_y - jnp.sum(a, 1, keepdims=True) * (x - centre)

    def pull(y, weight, self_neg):
        """Returns sum_y b f (y - x) / |y - x|, and the logarithms of b f."""
        is_itself = jnp.eye(len(x), len(y), dtype=bool) & (jnp.arange(len(y)) < self_neg)
        present = jnp.where(is_itself, 0, weight)  # [N, M]
        r = jnp.maximum(distance(x, y, self_neg), NEAREST * unit)
        log_f = jax.vmap(log_weight)(present) + log_force(r, kernel, tau, unit)
        return towards(y, jnp.exp(log_f) / r), log_f

    def pull_of_landmarks(z, weight_z):
        r = jnp.maximum(distance(x, z), NEAREST * unit)
        size = jnp.abs(weight_z)
        log_w = jnp.log(jnp.maximum(size, 1e-30))
        log_w = jnp.where(size > 0, log_w, MASKED)
        log_f = log_w + log_force(r, kernel, tau, unit)
        sign = jnp.sign(weight_z)
        return towards(z, sign * jnp.exp(log_f) / r), log_f

    if z is None:
        v_pos, log_f = pull(pos, weight_pos, 0)
    else:
        v_pos, log_f = pull_of_landmarks(z, weight_z)
    v_neg, _ = pull(neg, weight_neg, self_neg)
    # Forces may underflow; their shares do not.
    return attraction * v_pos - repulsion * v_neg, perplexity(jax.nn.softmax(log_f, 1))


# ---------------------------------------------------------------- the frozen mean embedding


@dataclasses.dataclass(frozen=True)
class Embedding(Memory):
    """The mean embedding of all reals of each class, at each location of every feature set.

    It is computed once, in float64. The lengths of the kernels are frozen with it: S_j sqrt(D) is
    here the mean distance of reals of one class, to which that of a step comes when the generated
    samples become like them. The state has, for each width D of features, its S sets with T
    locations in all, and G classes:

        z         {str(D): [G, m, T, D]}, the landmarks: m reals of each class, drawn at random
        weight    {str(D): [G, T, tau, m]}, 0 where a class has fewer
        unit      {str(D): [S]}, S_j sqrt(D)
        checksum  of what they were computed from

    Without landmarks there is no state, and the reals of a step attract.
    """

    landmarks: int  # m
    kernel: str
    temperatures: tuple[float, ...]

    @property
    def knows_reals(self) -> bool:
        return self.landmarks > 0

    def init(self, key: jax.Array, sets: dict[str, Any], n_classes: int) -> dict[str, Any] | None:
        if not self.landmarks:
            return None
        z, weight, unit = {}, {}, {}
        m, n_tau = self.landmarks, len(self.temperatures)
        for d, names in by_width(sets).items():
            n_t = sum(sets[name].shape[1] for name in names)
            z[d] = jnp.zeros((n_classes, m, n_t, int(d)))
            weight[d] = jnp.zeros((n_classes, n_t, n_tau, m))
            unit[d] = jnp.zeros(len(names))
        return {"z": z, "weight": weight, "unit": unit, "checksum": jnp.uint32(0)}

    def fill(self, state: dict[str, Any], reals: Reals) -> dict[str, Any]:
        """Draws the landmarks, measures the units on them, and computes the weights.

        It goes through the reals twice.
        """
        n_classes = len(next(iter(state["z"].values())))
        z, count, set_of = draw_landmarks(reals, n_classes, self.landmarks)
        unit = {d: mean_distances(z[d], set_of[d]) for d in z}

        # Sums of k(z, y) over all y of the class of z.
        sums = {d: np.zeros(w.shape) for d, w in state["weight"].items()}
        for features, labels in reals():
            packed = _pack(features)
            # One class and location at a time, whose kernel fits.
            for d, c in itertools.product(z, np.unique(labels)):
                m = len(z[d][c])
                y = packed[d][labels == c]
                for t, j in enumerate(set_of[d]):
                    k = self._kernel(z[d][c][:, t], y[:, t], unit[d][j])
                    sums[d][c, t, :, :m] += k.sum(-1)

        new_z = jax.tree.map(np.zeros_like, state["z"])
        new_weight = jax.tree.map(np.zeros_like, state["weight"])
        for d, c in itertools.product(z, range(n_classes)):
            rows, m = z[d][c], len(z[d][c])
            new_z[d][c, :m] = rows
            for t, j in enumerate(set_of[d]):
                own = rows[:, t]
                # K_zz
                inner = self._kernel(own, own, unit[d][j])
                w = landmark_weights(inner, sums[d][c, t, :, :m], count[c])
                new_weight[d][c, t, :, :m] = w
        unit = jax.tree.map(np.float32, unit)
        return state | {"z": new_z, "weight": new_weight, "unit": unit}

    def _kernel(self, a: np.ndarray, b: np.ndarray, unit: Any) -> np.ndarray:
        """Returns k [tau, N, M] of every pair of vectors [N, D] and [M, D]."""
        r = _distances(a, b)
        values = [kernel_value(r, self.kernel, tau, unit) for tau in self.temperatures]
        return np.stack(values)

    def look(
        self, state: dict[str, Any] | None, key: jax.Array, seen: Seen
    ) -> tuple[Any, dict[str, Recalled]]:
        if state is None:
            return None, {}
        recalled = {}
        for d, names in by_width(seen.gen).items():
            of_all = state["z"][d], state["weight"][d]
            of_step = [array[seen.labels] for array in of_all]
            z, weight = seen.layout.classes(of_step)
            shape = (len(seen.labels), len(names))
            unit = jnp.broadcast_to(state["unit"][d], shape)
            each = {
                "z": rearrange(z, "c m t d -> (c t) m d"),
                "unit_z": of_each_problem(unit, names, seen.gen),
            }
            weight = rearrange(weight, "c t k m -> (c t) k m")
            recalled[d] = Recalled(each=each, each_tau={"weight_z": weight})
        return None, recalled

    def describe(self, state: dict[str, Any]) -> str:
        size = sum(int(np.prod(a.shape)) * 4 for a in jax.tree.leaves(state))
        return f"{self.landmarks} landmarks of each class, {size / 1e6:.1f} MB"


def draw_landmarks(
    reals: Reals, n_classes: int, m: int
) -> tuple[dict[str, list[Any]], np.ndarray, dict[str, np.ndarray]]:
    """Draws at most m reals of each class, the same in every run.

    It keeps a reservoir: the i-th real of a class takes a place in it with probability m / i.

    Returns:
        {str(D): their features [m, T, D] in each class}, the number of all reals of each class, and
        {str(D): [T], the set that each location belongs to}.
    """
    rng = np.random.default_rng(0)
    count = np.zeros(n_classes, int)
    kept: list[list[Any]] = [[] for _ in range(n_classes)]
    set_of: dict[str, np.ndarray] = {}
    for features, labels in reals():
        packed = _pack(features)
        for i, c in enumerate(labels):
            place = count[c]
            if place >= m:
                place = rng.integers(count[c] + 1)
            count[c] += 1
            if place < m:
                row = {d: rows[i].copy() for d, rows in packed.items()}
                kept[c][place : place + 1] = [row]
        for d, names in by_width(features).items():
            sizes = [features[name].shape[1] for name in names]
            set_of[d] = np.repeat(np.arange(len(names)), sizes)

    z = {}
    for d, sets in set_of.items():
        shape = (-1, len(sets), int(d))
        z[d] = [np.reshape([row[d] for row in rows], shape) for rows in kept]
    return z, count, set_of


def mean_distances(of_classes: list[np.ndarray], set_of: np.ndarray) -> np.ndarray:
    """Returns S_j sqrt(D) of each set, [S]: the mean distance of two landmarks of a class.

    Args:
        of_classes: features [m, T, D] in each class.
        set_of: [T], the set that each location belongs to.
    """
    n_sets = set_of[-1] + 1
    total, pairs = np.zeros(n_sets), np.zeros(n_sets)
    for rows in of_classes:
        for t, j in enumerate(set_of):
            total[j] += _distances(rows[:, t], rows[:, t]).sum()
            pairs[j] += len(rows) * (len(rows) - 1)
    # A set that is constant is clipped as in drifting/loss.py.
    return np.maximum(total / np.maximum(pairs, 1), 1e-3 * np.sqrt(of_classes[0].shape[2]))


def kernel_value(r: np.ndarray, kernel: str, tau: float, unit: float) -> np.ndarray:
    """Returns k of pairs at distance r, whose force is in `log_force`."""
    if kernel == "laplace":
        return np.exp(-r / (tau * unit))
    if kernel == "gaussian":
        return np.exp(-(r**2) / (2 * tau * unit**2))
    return -r / unit


def landmark_weights(inner: np.ndarray, sums: np.ndarray, n: int) -> Float[np.ndarray, "tau m"]:
    """Returns w: of all sums w_m k(., z_m) with sum w = 1, the nearest to the mean embedding.

    The weights of the reals sum to 1 too. It keeps attraction and repulsion in balance at a width
    so small that a landmark tells of no real but itself; and the energy kernel is positive definite
    for differences alone.

    Args:
        inner: [tau, m, m], K_zz, k between landmarks.
        sums: [tau, m], of k(z, y) over all reals y.
        n: the number of all reals. Where they are the landmarks, each has 1 / n.
    """
    m = sums.shape[1]
    if m == n:
        return np.full(sums.shape, 1 / max(n, 1))
    # The last row and column are those of sum w = 1.
    a = np.ones((len(sums), m + 1, m + 1))
    a[:, :m, :m] = inner + RIDGE * np.eye(m)
    a[:, m, m] = 0
    b = np.ones((len(sums), m + 1, 1))
    b[:, :m, 0] = sums / n
    w = np.linalg.solve(a, b)
    return w[:, :m, 0]


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns ||x - y|| [N, M] in float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    x_squared, y_squared = (x**2).sum(1), (y**2).sum(1)
    squared = x_squared[:, None] + y_squared - 2 * x @ y.T
    return np.sqrt(np.maximum(squared, 0))


def _pack(features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Does on the host what `drifting.problems.pack` does."""
    packed = {}
    for d, names in by_width(features).items():
        sets = [features[name] for name in names]
        packed[d] = np.concatenate(sets, 1)
    return packed
