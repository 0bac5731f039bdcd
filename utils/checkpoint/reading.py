"""One item of a checkpoint, from disk to a tree of arrays on the devices that are asked for."""

import pathlib
from typing import Any

import jax
import numpy as np

from utils.checkpoint import in_buckets, trees
from utils.checkpoint.checksums import item_names
from utils.checkpoint.lazy_orbax import load_orbax
from utils.errors import UserError


def read_item(folder: pathlib.Path, name: str, like: Any) -> Any:
    """Reads one item of a step.

    Args:
        folder: that of the step.
        name: of the item, such as "params".
        like: a tree of arrays or ShapeDtypeStructs. A leaf with a sharding comes back as a
            `jax.Array` with that sharding, a leaf without one as a NumPy array.
    Raises:
        UserError: the checkpoint has no such item, or its arrays are not those of `like`.
    """
    ocp = load_orbax()
    leaves = trees.flatten_tree(like)
    wanted = trees.to_read(leaves)
    present = item_names(folder)
    # An item whose arrays are all empty is not on disk at all.
    if wanted and name not in present:
        raise UserError(f"{folder} has no {name!r}: it has {', '.join(present)}")

    reader = in_buckets.reader(ocp, folder)
    saved = {}
    if name in present:
        on_disk = reader.metadata(folder / name).item_metadata
        saved = trees.flatten_tree(on_disk.tree)
    _check_same_arrays(folder, name, saved, wanted)

    arrays = {}
    if wanted:
        targets = {path: _restore_args(ocp, leaf) for path, leaf in wanted.items()}
        request = ocp.args.PyTreeRestore(item=trees.nest(wanted), restore_args=trees.nest(targets))
        arrays = trees.flatten_tree(reader.restore(folder / name, args=request))

    restored = []
    for path, leaf in leaves.items():
        if path in arrays:
            restored.append(trees.from_disk(arrays[path], leaf))
        else:
            restored.append(trees.empty_array(leaf))
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def _check_same_arrays(
    folder: pathlib.Path, name: str, saved: trees.Leaves, wanted: trees.Leaves
) -> None:
    """Raises UserError, with the first array that differs, unless both have the same arrays."""
    for path in sorted(saved.keys() | wanted.keys()):
        there = trees.describe(saved.get(path))
        here = trees.describe(wanted.get(path))
        if there != here:
            raise UserError(
                f"{folder} was made with another model, other settings or another version: "
                f"{name}/{path} is {there} in the checkpoint and {here} now; give the flags of its "
                "config.json, or another --save_dir"
            )


def _restore_args(ocp, leaf: Any):
    """Returns what tells Orbax where one array shall be."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)
