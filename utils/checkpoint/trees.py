"""A tree of arrays as {"path/of/leaf": array}, and the form in which its arrays are stored."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Leaves = dict[str, Any]  # {"path/of/leaf": an array, or the shape and type of one}


def flatten_tree(tree: Any) -> Leaves:
    """Returns the leaves by path, in the order of jax.tree.leaves; fields by name or index."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/") or "value": leaf
        for path, leaf in leaves
    }


def nest(leaves: Leaves) -> dict[str, Any]:
    """Returns nested dictionaries, the form of tree that is stored for every tree."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


# ---- the form in which arrays are stored ----


def to_save(leaves: Leaves) -> Leaves:
    """Returns what goes to disk: random keys as their words, and no empty arrays.

    Orbax refuses arrays without elements. Words are plain numbers, which any version can read.
    """
    return {
        path: jax.random.key_data(leaf) if is_random_key(leaf) else leaf
        for path, leaf in _not_empty(leaves).items()
    }


def to_read(leaves: Leaves) -> Leaves:
    """Returns what to ask the disk for, for such leaves: the same as `to_save`, as shapes."""
    return {
        path: _key_words(leaf) if is_random_key(leaf) else leaf
        for path, leaf in _not_empty(leaves).items()
    }


def from_disk(array: Any, like: Any) -> Any:
    """Returns an array that was read as what it was when it was saved."""
    if is_random_key(like):
        return jax.random.wrap_key_data(array, impl=like.dtype._impl.name)
    return array


def empty_array(like: Any) -> Any:
    """Returns an array without elements, which is not on disk, where `like` asks for one."""
    array = np.zeros(like.shape, like.dtype)
    sharding = getattr(like, "sharding", None)
    return array if sharding is None else jax.device_put(array, sharding)


def is_random_key(leaf: Any) -> bool:
    """Tells whether a leaf holds random keys of JAX's own type, not numbers."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def describe(leaf: Any) -> str:
    """Returns the type and shape of an array, such as "float32[4, 5]"; "missing" for None."""
    if leaf is None:
        return "missing"
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _not_empty(leaves: Leaves) -> Leaves:
    return {path: leaf for path, leaf in leaves.items() if 0 not in np.shape(leaf)}


def _key_words(key: Any) -> jax.ShapeDtypeStruct:
    """Returns the shape of a random key's words, with the sharding of the key."""
    words = jax.eval_shape(jax.random.key_data, key)
    return jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=getattr(key, "sharding", None))
