"""Named tensors in files, and strict matching of them with the parameters that a model expects."""

import fnmatch
import functools
import hashlib
import re
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from utils.errors import UserError
from utils.npz import read_npz
from utils.weight_files.torch_file import read_torch_file

Tensors = dict[str, np.ndarray]  # by name

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "ema_params.msgpack")


# ---- files ----


DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])")


def read_tensors(path: str | Path, sha256: str = "") -> Tensors:
    """Returns the tensors of a file by name.

    The file is .safetensors, .npz, .msgpack (Flax), or, with any other suffix, PyTorch's, of which
    nothing is executed. Nested trees give dotted names.

    Args:
        path: the file, or a folder that holds one of FOLDER_FILES.
        sha256: the expected start of the file's checksum, in hex. If empty, it is the one in the
            file's name, where there is one (PyTorch's `resnet18-f37072fd.pth`).
    Raises:
        UserError: the file is not there, is truncated or damaged, or has another checksum.
    """
    path = find_file(Path(path).expanduser())
    # https://docs.pytorch.org/docs/stable/hub.html: check_hash of load_state_dict_from_url
    in_name = re.search(r"-([0-9a-f]{8,64})\.pth?$", path.name)
    if not sha256 and in_name and not DATE.fullmatch(in_name[1]):
        sha256 = in_name[1]
    check_sha256(path, sha256)
    try:
        if path.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)
        if path.suffix == ".npz":
            return read_npz(path)
        if path.suffix == ".msgpack":
            return _dotted(flax.serialization.msgpack_restore(path.read_bytes()))
    except UserError:
        raise
    except Exception as error:  # every library has its own exceptions for a damaged file
        message = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is damaged or truncated ({type(error).__name__}: {message}): fetch it again"
        ) from error
    return _dotted(read_torch_file(path))


def find_file(path: Path) -> Path:
    """Returns the file itself, or the one of FOLDER_FILES that the folder holds."""
    found = path
    if path.is_dir():
        candidates = [path / name for name in FOLDER_FILES]
        found = next((file for file in candidates if file.is_file()), path)
    if not found.is_file():
        raise UserError(
            f"no weights at {found}: give a file, or a folder with {' or '.join(FOLDER_FILES)}"
        )
    return found


def check_sha256(path: Path, expected: str) -> None:
    """Raises UserError unless the checksum of the file starts with `expected`.

    expected: in hex; "" is not checked, and the file not read.
    """
    if not expected:
        return
    with open(path, "rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if not actual.startswith(expected):
        raise UserError(
            f"{path} has the SHA-256 {actual[:16]}..., expected {expected[:16]}...: it is another "
            "or a damaged file, fetch it again"
        )


def _dotted(tree: Any) -> Tensors:
    """Returns the arrays of a nested dict under dotted names.

    What is not an array is left out: checkpoints also hold epochs, arguments and the like.
    """
    if not isinstance(tree, dict):
        return {}
    tensors = {}
    for path, value in flatten_dict(tree).items():
        if isinstance(value, np.ndarray):
            tensors[".".join(map(str, path))] = value
    return tensors


# ---- names ----


def strip_prefix(tensors: Tensors, anchor: str, source: str) -> Tensors:
    """Returns the tensors of the module that holds `anchor`, without their prefix.

    Training checkpoints wrap the network ("state_dict.module.encoder_q."). Of several such modules
    the one with the shortest prefix is taken, a momentum copy (MoCo's encoder_k) only if it is
    alone.

    Args:
        tensors: all of a checkpoint.
        anchor: a name that the network itself has.
        source: where they are from, for messages.
    Raises:
        UserError: there is no such tensor.
    """
    prefixes = []
    for name in tensors:
        if name == anchor or name.endswith("." + anchor):
            prefixes.append(name.removesuffix(anchor))
    if not prefixes:
        raise UserError(
            f"{source} has no tensor {anchor}: these are the weights of another architecture, or "
            f"not weights (it has {list(tensors)[:3]} ...)"
        )

    def preference(prefix: str) -> tuple[bool, int]:
        return bool(re.search("momentum|encoder_k", prefix)), len(prefix)

    prefix = min(prefixes, key=preference)
    stripped = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            stripped[name.removeprefix(prefix)] = value
    return stripped


def rename(tensors: Tensors, parts: dict[str, str]) -> Tensors:
    """Returns the tensors with each key of `parts` in their names replaced by its value."""
    for old, new in parts.items():
        tensors = {name.replace(old, new): value for name, value in tensors.items()}
    return tensors


# ---- what the names and shapes tell of the architecture ----


def count(tensors: Tensors, pattern: str) -> int:
    """Returns how many layers there are, such as 12 for "layer.0." to "layer.11.".

    It is 1 + the largest number that the pattern's group finds at the start of a name; 0 if it
    finds none.
    """
    matches = [re.match(pattern, name) for name in tensors]
    numbers = [int(found[1]) for found in matches if found]
    return 1 + max(numbers, default=-1)


def shape_of(tensors: Tensors, name: str, n_axes: int, source: str) -> tuple[int, ...]:
    """Returns the shape of a tensor from which the architecture is read.

    Raises UserError if it is missing or has another number of axes.
    """
    if name not in tensors or tensors[name].ndim != n_axes:
        raise UserError(
            f"{source} lacks the tensor {name} with {n_axes} axes: it is incomplete, or the "
            "weights of another architecture"
        )
    return tensors[name].shape


# ---- matching ----


def expected_shapes(model: Any, *inputs: tuple[int, ...]) -> Any:
    """Returns the shapes of a Flax model's parameters; nothing is computed.

    inputs: the shapes of the float32 arrays that the model is called with.
    """
    return _traced_shapes(model, inputs)


# Tracing is slow, and the same network is loaded several times. Apart from the function above since
# a type checker does not know that Flax modules can be hashed.
@functools.lru_cache(maxsize=8)
def _traced_shapes(model: Any, inputs: tuple[tuple[int, ...], ...]) -> Any:
    arrays = [jax.ShapeDtypeStruct(shape, np.float32) for shape in inputs]
    return jax.eval_shape(model.init, jax.random.key(0), *arrays)["params"]


def match(tensors: Tensors, expected: Any, source: str, ignore: tuple[str, ...] = ()) -> Any:
    """Returns parameters in the structure of `expected`, float32, of the tensors of their names.

    The name of a parameter is its dotted path. A "*" in a path means that the leaf is a stack over
    layers 0, 1, ... on its first axis. Leaves called `kernel` and `scale` are PyTorch's `weight`,
    and kernels are transposed from [out, in, ...] to [..., in, out], unless the file itself has
    kernels: then it is in Flax's layout.

    Args:
        tensors: by name.
        expected: nested dicts of shapes.
        source: where the tensors are from, for messages.
        ignore: shell patterns of tensors that are not needed.
    Raises:
        UserError: a tensor is missing, of another shape, or unexpected; the first one is named.
    """
    torch_names = not any(name.endswith("kernel") for name in tensors)
    leaves: dict[tuple[str, ...], Any] = flatten_dict(expected)
    used, params = set(), {}
    for path, leaf in leaves.items():
        is_kernel = torch_names and path[-1] == "kernel"
        pattern = ".".join(path)
        if torch_names and path[-1] in ("kernel", "scale"):
            pattern = pattern.removesuffix(path[-1]) + "weight"
        if "*" in pattern:
            names = [pattern.replace("*", str(layer)) for layer in range(leaf.shape[0])]
            arrays = [_take(tensors, name, leaf.shape[1:], is_kernel, source) for name in names]
            params[path] = np.stack(arrays)
        else:
            names = [pattern]
            params[path] = _take(tensors, pattern, leaf.shape, is_kernel, source)
        used.update(names)
    _check_all_used(tensors, used, source, ignore)
    return jax.tree.map(jax.numpy.asarray, unflatten_dict(params))


def _take(
    tensors: Tensors, name: str, shape: tuple[int, ...], is_kernel: bool, source: str
) -> np.ndarray:
    """Returns the tensor `name`, float32, of the given shape.

    is_kernel: its file has it in PyTorch's layout, [out, in, ...].
    """
    if name not in tensors:
        raise UserError(
            f"{source} lacks the tensor {name}: it is incomplete, or the weights of another "
            "architecture"
        )
    array = tensors[name]
    wanted = (*shape[-1:], *shape[-2:-1], *shape[:-2]) if is_kernel else shape
    if array.shape != wanted:
        raise UserError(
            f"{source}: tensor {name} has the shape {list(array.shape)}, expected "
            f"{list(wanted)}: the weights of another architecture"
        )
    array = np.asarray(array, np.float32)
    return np.moveaxis(array, (0, 1), (-1, -2)) if is_kernel else array


def _check_all_used(tensors: Tensors, used: set[str], source: str, ignore: tuple[str, ...]) -> None:
    for name in tensors:
        ignored = any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore)
        if name not in used and not ignored:
            raise UserError(
                f"{source}: unexpected tensor {name}: the weights of another architecture"
            )
