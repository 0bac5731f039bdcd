"""The multi-scale feature sets of section A.5.

An encoder gives feature maps. Here they become named sets of vectors, each of which is a drifting
problem of its own: the locations of a map, and means and standard deviations over the map and
over patches of it.
"""

import fnmatch

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from utils.errors import UserError

STATISTICS = ("map", "mean", "std")

Window = tuple[int, int]  # (height, width) in locations of a map
Moments = tuple[Array, Array | None]  # mean and variance [B, h, w, C]; None for a variance of 0


def feature_sets(
    maps: dict[str, Array],
    names: tuple[str, ...],
    statistics: tuple[str, ...],
    patch_sizes: tuple[int, ...],
) -> dict[str, Float[Array, "B T D"]]:
    """Returns the sets of A.5 of every map [B, H, W, D], under the published names.

        (a)     NAME         each location    [B, H W, D]      if "map" is among the statistics
        (b)     NAME_mean    of the map       [B, 1, D]        if "mean" is; likewise NAME_std
        (c, d)  NAME_mean_2  of 2x2 patches   [B, H W / 4, D]  for each patch size that divides
                                                               H and W; likewise NAME_std_2

    They are float32, or float64 for float64 maps. A map that is already a set of vectors
    [B, T, D] is passed on.

    Args:
        maps: by name.
        names: shell patterns of the maps to take ("*", "layer[34]*"). A pattern after "!" drops
            sets ("!conv1", "!*_std*"). Each pattern must match something.
        statistics: some of "map", "mean", "std".
        patch_sizes: the sides of the patches.
    Raises:
        UserError: an unknown statistic, a pattern without a match, or nothing left.
    """
    for statistic in set(statistics) - set(STATISTICS):
        raise UserError(
            f"feature statistic {statistic!r} is unknown: choose from {', '.join(STATISTICS)}"
        )
    wanted = [pattern for pattern in names if pattern[0] != "!"]
    dropped = [pattern[1:] for pattern in names if pattern[0] == "!"]

    sets = {}
    for name, x in _choose_maps(maps, wanted).items():
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if x.ndim == 3:
            sets[name] = x
        else:
            sets |= _sets_of_map(name, x, statistics, patch_sizes)

    sets = _drop_sets(sets, dropped)
    if not sets:
        raise UserError(
            f"no feature set is left of the maps {', '.join(maps)}: give at least one name and "
            f"one statistic of {', '.join(STATISTICS)}"
        )
    return sets


def _choose_maps(maps: dict[str, Array], patterns: list[str]) -> dict[str, Array]:
    """Returns the maps whose name matches a pattern, in their order."""
    for pattern in patterns:
        if not fnmatch.filter(maps, pattern):
            raise UserError(
                f"no feature map is called {pattern!r}: this encoder has {', '.join(maps)}"
            )
    chosen = {}
    for name, x in maps.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            chosen[name] = x
    return chosen


def _drop_sets(sets: dict[str, Array], patterns: list[str]) -> dict[str, Array]:
    """Returns the sets whose name matches no pattern."""
    for pattern in patterns:
        matched = fnmatch.filter(sets, pattern)
        if not matched:
            raise UserError(f"no feature set is called {pattern!r}: there are {', '.join(sets)}")
        sets = {name: x for name, x in sets.items() if name not in matched}
    return sets


def _sets_of_map(
    name: str, x: Float[Array, "B H W D"], statistics: tuple[str, ...], patch_sizes: tuple[int, ...]
) -> dict[str, Float[Array, "B T D"]]:
    """Returns the sets (a) to (d) of one map."""
    whole = x.shape[1], x.shape[2]
    patches = [p for p in patch_sizes if whole[0] % p == 0 and whole[1] % p == 0]
    moments = window_moments(x, {whole, *((p, p) for p in patches)})

    sets = {}
    if "map" in statistics:
        sets[name] = _locations(x)
    pooled = [statistic for statistic in ("mean", "std") if statistic in statistics]
    for statistic in pooled:
        sets[f"{name}_{statistic}"] = _locations(_moment(moments[whole], statistic))
    for statistic in pooled:
        for p in patches:
            sets[f"{name}_{statistic}_{p}"] = _locations(_moment(moments[p, p], statistic))
    return sets


def _moment(moments: Moments, statistic: str) -> Array:
    """Returns the mean, or the standard deviation, which has a gradient where it is 0 too."""
    mean, var = moments
    if statistic == "mean":
        return mean
    if var is None:
        var = jnp.zeros_like(mean)
    return jnp.sqrt(var + 1e-6)


def _locations(x: Float[Array, "B H W D"]) -> Float[Array, "B T D"]:
    return rearrange(x, "b h w d -> b (h w) d")


# ---- means and variances over windows ----


def window_moments(x: Float[Array, "B H W C"], windows: set[Window]) -> dict[Window, Moments]:
    """Returns {window: (mean, variance)} over windows, each of which divides H x W.

    Those of a larger window are computed from those of the largest one that divides it, so x
    itself is read once.
    """
    moments: dict[Window, Moments] = {(1, 1): (x, None)}
    for height, width in sorted(windows - {(1, 1)}):
        inner = max((h, w) for h, w in moments if height % h == 0 and width % w == 0)
        mean, var = moments[inner]
        moments[height, width] = merge(mean, var, (height // inner[0], width // inner[1]))
    return moments


def merge(
    mean: Float[Array, "B H W C"], var: Float[Array, "B H W C"] | None, size: Window
) -> tuple[Float[Array, "B h w C"], Float[Array, "B h w C"]]:
    """Returns mean and variance over windows of `size` cells, from those of the cells.

    The variance of a window is the mean of the variances plus the variance of the means. A `var`
    of None is a variance of 0.
    """
    cells = _windows(mean, size)
    out = jnp.mean(cells, (2, 4), keepdims=True)
    spread = jnp.mean((cells - out) ** 2, (2, 4))
    if var is not None:
        spread = spread + jnp.mean(_windows(var, size), (2, 4))
    return out[:, :, 0, :, 0], spread


def _windows(x: Float[Array, "B H W C"], size: Window) -> Float[Array, "B h p w q C"]:
    return rearrange(x, "b (h p) (w q) c -> b h p w q c", p=size[0], q=size[1])
