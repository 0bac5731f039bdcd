"""Learned temperatures: one for each feature set, held at a number of neighbours.

A temperature tau = exp(theta) decides over how many positives a sample
spreads. For a sample x

    p_y = softmax_y(-u),  u = c(x, y) / eps
    eps = tau unit (laplace) or tau unit^2 (gaussian)
    P   = exp(H), H the entropy of p: the number of neighbours of x

and P_j is the mean of P over the generated samples of a set j, at all its
locations. It is to be N:

    J_j(theta) = (log P_j - log N)^2 / 2

For positives of equal weight H = log sum_y e^-u + E[u], with the mean under p.
Since du / dtheta = -u, the slope of H in theta is Var[u]. That of log P_j, g_j,
is a weighted mean of such variances: P_j rises with theta, from 1 to the number
of positives. J_j then falls towards one place alone, that of P_j = N.

Its gradient is (log P_j - log N) g_j. A step goes down it without g_j, which
is as good as 0 where the kernel is flat or follows one real:

    theta <- clip(theta - RATE (log P_j - log N), log LEAST, log MOST)

That is an integral controller. A step multiplies the error by about
1 - RATE g_j, so it settles where g_j < 2 / RATE. Where N cannot be reached,
theta stays at its bound.

The samples of a step decide the temperature of the next one, which is a
constant in the gradient of the generator. What the drift does to the samples
plays no part: J asks for neighbours, not for good samples.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drifting.distances import log_kernel, log_weight, perplexity
from drifting.fields.kernel_tiled import TILE
from drifting.memory import Memory, Recalled, Seen
from drifting.problems import by_width, of_each_problem

START = 0.2  # tau before the first step, the paper's largest
LEAST, MOST = 0.005, 2.0  # the bounds of tau, in units of the set's mean distance S sqrt(D)
RATE = 0.05


def neighbours(
    x: Float[Array, "N D"],
    pos: Float[Array, "P D"],
    weight_pos: Float[Array, " P"],
    tau,
    unit,
    kernel: str,
) -> Float[Array, " N"]:
    """Returns the number of neighbours of each sample, from 1 to P.

    Of more than TILE positives every k-th stands for k, so the least is k there.

    Args:
        x, pos, weight_pos, unit: as in `drifting.fields`.
        tau: the temperature.
        kernel: "laplace" or "gaussian".
    """
    stride = -(-pos.shape[0] // TILE)
    logit = log_kernel(x, pos[::stride], kernel, tau, unit, 0)
    share = jax.nn.softmax(logit + log_weight(weight_pos[::stride]), axis=1)
    return stride * perplexity(share)


def next_log_temperature(theta: Array, spread: Array, target: float) -> Array:
    """Returns theta after a step.

    Args:
        theta: log tau.
        spread: P, the mean number of neighbours at tau; >= 1.
        target: N.
    """
    error = jnp.log(spread) - jnp.log(target)
    return jnp.clip(theta - RATE * error, jnp.log(LEAST), jnp.log(MOST))


@dataclasses.dataclass(frozen=True)
class Temperatures(Memory):
    """The log-temperatures {str(D): {feature set: theta}}, of fields that have `log_kernel`."""

    neighbours: float  # N
    kernel: str  # "laplace" or "gaussian"

    def init(self, key: jax.Array, sets: dict[str, Any], n_classes: int) -> dict[str, Any]:
        theta = jnp.log(jnp.float32(START))
        return {d: dict.fromkeys(names, theta) for d, names in by_width(sets).items()}

    def adapt(self, field: Callable) -> Callable:
        """Returns the field at the temperature of the problem, in the place of tau.

        Its perplexity is the number of neighbours,
        which A of Algorithm 2 has not: A is clipped from below,
        so that far from all reals it spreads over all of them.

        The compiler finds the distances to the positives in `uncoupled`
        and `sinkhorn`, which measure the same, and merges both.
        `kernel` measures them beside the negatives:
        there it is one matrix product more.
        """

        def at_temperature(x, pos, neg, weight_pos, weight_neg, tau, self_neg, unit, *, own_tau):
            problem = (x, pos, neg, weight_pos, weight_neg, own_tau)
            v, _ = field(*problem, self_neg=self_neg, unit=unit)
            return v, neighbours(x, pos, weight_pos, own_tau, unit, self.kernel)

        return at_temperature

    def look(
        self, state: dict[str, Any], key: jax.Array, seen: Seen
    ) -> tuple[None, dict[str, Recalled]]:
        recalled = {}
        for d, names in by_width(seen.gen).items():
            tau = jnp.exp(jnp.stack([state[d][name] for name in names]))
            of_sets = jnp.broadcast_to(tau, (len(seen.labels), len(names)))
            recalled[d] = Recalled(each={"own_tau": of_each_problem(of_sets, names, seen.gen)})
        return None, recalled

    def update(
        self, state: dict[str, Any], observed: None, stats: Sequence[Any] = ()
    ) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        """Also returns {"temperature/SET": tau} of the step that is over."""
        after, metrics = {}, {}
        # The widths are in the order of their first sets, as `by_width` of the features has them.
        widths = sorted(state, key=lambda d: min(state[d]))
        for d, of_sets in zip(widths, stats, strict=True):
            after[d] = {}
            for i, (name, theta) in enumerate(sorted(state[d].items())):
                spread = of_sets.perplexity[i]
                after[d][name] = next_log_temperature(theta, spread, self.neighbours)
                metrics[f"temperature/{name}"] = jnp.exp(theta)
        return after, metrics

    def of_sets(self, state: dict[str, Any]) -> dict[str, float]:
        """Returns the temperature of each set, by its name."""
        found = {}
        for sets in state.values():
            for name, theta in sets.items():
                found[name] = float(jnp.exp(theta))
        return found

    def mean(self, state: dict[str, Any]) -> float:
        """Returns the geometric mean of the temperatures of all sets."""
        return float(jnp.exp(jnp.mean(jnp.stack(jax.tree.leaves(state)))))

    def describe(self, state: dict[str, Any]) -> str:
        return f"temperatures learned to {self.neighbours:g} neighbours"
