"""The multi-scale feature sets of A.5: from feature maps to named sets of vectors, each a drifting problem of
its own."""

import fnmatch

import jax.numpy as jnp
from jaxtyping import Array, Float

from utils.errors import UserError

STATISTICS = ("map", "mean", "std")


def merge(mean: Float[Array, "B H W C"], var, size: tuple[int, int]):
    """Mean and variance over windows of `size`, which divides H x W, of cells with the given ones: the mean of the variances plus the variance of the means."""
    b, height, width, c = mean.shape
    cells = lambda a: a.reshape(b, height // size[0], size[0], width // size[1], size[1], c)
    out = jnp.mean(cells(mean), (2, 4), keepdims=True)
    spread = jnp.mean((cells(mean) - out) ** 2, (2, 4))
    return out[:, :, 0, :, 0], spread if var is None else spread + jnp.mean(cells(var), (2, 4))


def window_moments(
    x: Float[Array, "B H W C"], windows: set[tuple[int, int]]
) -> dict[tuple[int, int], tuple]:
    """{window: (mean, var)}, each of a larger window from those of the largest that divides it, so that x itself is read once."""
    moments = {(1, 1): (x, None)}
    for h, w in sorted(windows - {(1, 1)}):
        p, q = max((p, q) for p, q in moments if h % p == 0 and w % q == 0)
        moments[h, w] = merge(*moments[p, q], (h // p, w // q))
    return moments


def feature_sets(
    maps: dict[str, Array],
    names: tuple[str, ...],
    statistics: tuple[str, ...],
    patch_sizes: tuple[int, ...],
) -> dict[str, Float[Array, "B T D"]]:
    """Every map [B,H,W,D] becomes the sets of A.5 under the published names; float32 (float64 stays).

        (a)     NAME         each location    [B, H W, D]      if "map" is among the statistics
        (b)     NAME_mean    of the map       [B, 1, D]        if "mean" is; likewise NAME_std
        (c, d)  NAME_mean_2  of 2x2 patches   [B, H W / 4, D]  for each patch size that divides H and W

    A map that is already a set of vectors [B,T,D] is passed on. names: shell patterns of the maps to take
    ("*", "layer[34]*"); a pattern after "!" drops sets ("!conv1", "!*_std*"). Each must match something.
    """
    for given in set(statistics) - set(STATISTICS):
        raise UserError(
            f"feature statistic {given!r} is unknown: choose from {', '.join(STATISTICS)}"
        )
    wanted, dropped = [n for n in names if n[0] != "!"], [n[1:] for n in names if n[0] == "!"]
    for pattern in wanted:
        if not fnmatch.filter(maps, pattern):
            raise UserError(
                f"no feature map is called {pattern!r}: this encoder has {', '.join(maps)}"
            )
    out = {}
    for name, x in maps.items():
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted):
            continue
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if x.ndim == 3:
            out[name] = x
            continue
        size = x.shape[1:3]
        if "map" in statistics:
            out[name] = x.reshape(x.shape[0], -1, x.shape[-1])
        patches = [p for p in patch_sizes if size[0] % p == 0 and size[1] % p == 0]
        moments = window_moments(x, {size, *((p, p) for p in patches)})

        def pooled(statistic, window):
            mean, var = moments[window]
            var = jnp.zeros_like(mean) if var is None else var
            return (mean if statistic == "mean" else jnp.sqrt(var + 1e-6)).reshape(
                x.shape[0], -1, x.shape[-1]
            )

        chosen = [s for s in ("mean", "std") if s in statistics]
        out |= {f"{name}_{s}": pooled(s, size) for s in chosen}
        out |= {f"{name}_{s}_{p}": pooled(s, (p, p)) for s in chosen for p in patches}
    for pattern in dropped:
        matched = fnmatch.filter(out, pattern)
        if not matched:
            raise UserError(f"no feature set is called {pattern!r}: there are {', '.join(out)}")
        out = {name: x for name, x in out.items() if name not in matched}
    if not out:
        raise UserError(
            f"no feature set is left of the maps {', '.join(maps)}: give at least one name and one "
            f"statistic of {', '.join(STATISTICS)}"
        )
    return out
