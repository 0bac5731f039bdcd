"""Averages of the parameters whose width is chosen after the training.

They are those of EDM2 (arXiv 2312.02696). A power-function average after t
steps weighs the parameters of step tau by the profile

    p_{t,gamma}(tau) = (gamma + 1) tau^gamma / t^(gamma + 1)          (eq. 121)

so its width grows with the length of the training. It is told by its relative
width sigma_rel, the standard deviation of the profile over t. The recursion

    e <- beta e + (1 - beta) params
    beta = (1 - 1/t)^(gamma + 1)                                      (eq. 127)

gives step i the weight (i^(gamma + 1) - (i - 1)^(gamma + 1)) / t^(gamma + 1).
That is the integral of the profile from i - 1 to i, so what holds for profiles
holds for averages.

A run tracks two widths and keeps snapshots of both. The average of another
width is about the combination of snapshots whose profile is nearest to the
wanted one, by least squares (Sec. 3 and Algorithm 3).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

POWER = "power_"  # how the names of such averages begin, as "power_0.05"
TRACKED_WIDTHS = (0.05, 0.1)  # sigma_rel of the two averages that are tracked, as in EDM2
WIDTHS = (0.01, 0.25)  # least and greatest width that is made of them

Profile = tuple[float, float]  # (t, gamma)


def power_name(width: float) -> str:
    """Returns the name of the average of a width, such as "power_0.05"."""
    return f"{POWER}{width:g}"


def width_of(name: str) -> float:
    """Returns the width in a name of `power_name`."""
    return float(name.removeprefix(POWER))


def gamma_of_width(width: float) -> float:
    """Returns the exponent gamma of a relative width in (0, 0.288).

    Its largest root is meant, of the cubic equation (EDM2, eq. 123)

        sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))
    """
    inverse = width**-2
    return float(np.max(np.roots([1, 7, 16 - inverse, 12 - inverse]).real))


def step_rate(width: float, step: jax.typing.ArrayLike) -> jax.Array:
    """Returns 1 - beta of the step that led to `step`, 1 for the first."""
    exponent = gamma_of_width(width) + 1
    return -jnp.expm1(exponent * jnp.log1p(-1 / jnp.asarray(step, jnp.float32)))


# ---- after the training ----


def combine(snapshots: Sequence[Profile], wanted: Profile) -> tuple[np.ndarray, float]:
    """Returns the weights with which snapshots come nearest to an average.

    They sum to 1, so that parameters which stand still are met exactly.

    Args:
        snapshots: K different profiles (t, gamma).
        wanted: the profile to make.
    Returns:
        (weights [K], error): the distance from the wanted profile that is left,
        as a share of its norm.
    """
    norm = inner_products([wanted], [wanted])[0, 0]
    products = inner_products(snapshots, snapshots) / norm  # [K, K]
    with_wanted = inner_products(snapshots, [wanted])[:, 0] / norm  # [K]

    # Least squares under a constraint: the last unknown is its Lagrange multiplier.
    k = len(snapshots)
    equations = np.ones((k + 1, k + 1))
    equations[:k, :k], equations[k, k] = products, 0.0
    weights = np.linalg.solve(equations, np.append(with_wanted, 1.0))[:k]

    left = 1 - 2 * weights @ with_wanted + weights @ products @ weights
    return weights, float(np.sqrt(max(left, 0.0)))


def inner_products(rows: Sequence[Profile], columns: Sequence[Profile]) -> np.ndarray:
    """Returns the integrals of the products of profiles, [rows, columns].

    With t the lesser of the two times, where the earlier profile ends, that is

        (g1 + 1) (g2 + 1) / (g1 + g2 + 1)
        * (t / t1)^g1 (t / t2)^g2
        * t / (t1 t2)
    """
    t1, g1 = np.array(rows, np.float64).T[:, :, None]
    t2, g2 = np.array(columns, np.float64).T[:, None, :]
    t = np.minimum(t1, t2)
    height = (g1 + 1) * (g2 + 1) / (g1 + g2 + 1)
    return height * (t / t1) ** g1 * (t / t2) ** g2 * t / (t1 * t2)
