"""How sure a sliced Wasserstein distance is, near the floor where samples are as good as reals.

The distance in one direction is the integral of |F - G|. Far from the floor its noise is that of
the integral of sign(F - G) dF, which the contributions of the samples have. Near it the sign is
noise itself: |z| of a normal z around 0 varies by 0.6 of its deviation. There the contributions
make the error about 1.3 times as large as it is.

So the noise is drawn. F of a random half of the samples less F of all has the noise of F, half by
half. Around s (F - G) it gives distances, the mean of which is the distance that was found for one
s in 0 to 1: the noise of F alone makes F - G too large. Their variance, over that of the integral
of the sign times the noise, is the part of the contributions' variance that is left.
"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

HALVES = 64
POINTS = 128  # of each direction, at which F - G is looked at
STEPS = 6  # of s, between which the mean is a line
DIRECTIONS = 32  # that are enough for a ratio of variances
SEED = 0


def variance_left(x: Float[ndarray, "N L"], y: Float[ndarray, "M L"]) -> float:
    """Returns the variance of the mean of W_1 over the columns, by the noise of x.

    It is a part of what the contributions to it say: 1 where x is far from y, and less near it.
    """
    if len(x) < 4:
        return 1.0
    random = np.random.default_rng(SEED)
    signs = np.array([random.permutation(len(x)) < len(x) // 2 for _ in range(HALVES)])
    signs = signs / (len(x) // 2) - 1 / len(x)  # [B, N], a half less all of them
    signs *= np.sqrt((len(x) // 2) / (len(x) - len(x) // 2))  # of an odd number
    columns = [_at_points(of_x, of_y, signs) for of_x, of_y in zip(x.T, y.T, strict=True)]
    difference, noise, gaps = (np.stack(parts) for parts in zip(*columns, strict=True))

    def distances(shrunk: float, sign: int) -> Float[ndarray, " B"]:
        centre = shrunk * difference[:, None]  # [L, 1, P]
        return np.einsum("lbp,lp->b", np.abs(centre + sign * noise), gaps)

    steps = np.linspace(0, 1, STEPS)
    means = np.maximum.accumulate([distances(shrunk, 1).mean() for shrunk in steps])
    shrunk = np.interp(np.sum(np.abs(difference) * gaps), means, steps)
    drawn = [distances(shrunk, 1), distances(shrunk, -1)]
    of_contributions = np.var(np.einsum("lbp,lp->b", noise, np.sign(difference) * gaps))
    if of_contributions == 0:
        return 1.0
    return min(float(np.var(drawn) / of_contributions), 1.0)


def _at_points(
    x: Float[ndarray, " N"], y: Float[ndarray, " M"], signs: Float[ndarray, "B N"]
) -> tuple[Float[ndarray, " P"], Float[ndarray, "B P"], Float[ndarray, " P"]]:
    """Returns F - G at some of the values of one direction, the noise of F, and the gaps."""
    order = np.argsort(x)
    values = np.sort(np.concatenate([x, y]))
    edges = np.linspace(0, len(values) - 1, min(POINTS, len(values) - 1) + 1).astype(int)
    at = values[(edges[:-1] + edges[1:]) // 2]
    of_x = np.searchsorted(x[order], at, "right")
    of_y = np.searchsorted(np.sort(y), at, "right")
    noise = np.cumsum(signs[:, order], 1)
    noise = np.concatenate([np.zeros((len(signs), 1)), noise], 1)[:, of_x]
    return of_x / len(x) - of_y / len(y), noise, np.diff(values[edges])
