"""Named tensors in files, and strict matching of them with the parameters that a model expects."""

import fnmatch
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

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "ema_params.msgpack")


def read_tensors(path: str | Path, sha256: str = "") -> dict[str, np.ndarray]:
    """The tensors of a .safetensors, .npz, .msgpack (Flax) or PyTorch file (any other suffix; nothing in it
    is executed), by name.

    Nested trees give dotted names. path: the file, or a folder that holds one of FOLDER_FILES. sha256: the
    expected start of the file's checksum, in hex; empty: the one in the file's name, if it has one (PyTorch's
    `resnet18-f37072fd.pth`). Raises UserError for a file that is not there, is truncated or damaged, or has
    another checksum.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = next((path / name for name in FOLDER_FILES if (path / name).is_file()), path)
    if not path.is_file():
        expected = f"a file, or a folder with {' or '.join(FOLDER_FILES)}"
        raise UserError(f"no weights at {path}: give {expected}")
    # https://docs.pytorch.org/docs/stable/hub.html: check_hash of load_state_dict_from_url
    in_name = re.search(r"-([0-9a-f]{8,64})\.pth?$", path.name)
    check_sha256(path, sha256 or (in_name[1] if in_name else ""))
    try:
        if path.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        if path.suffix == ".msgpack":
            return dotted(flax.serialization.msgpack_restore(path.read_bytes()))
    except Exception as error:  # every library has its own exceptions for a damaged file
        raise UserError(
            f"{path} is damaged or truncated ({type(error).__name__}: {one_line(error)}): fetch it again"
        ) from error
    from utils.weight_files.torch_file import read_torch_file

    return dotted(read_torch_file(path))


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def dotted(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a nested dict, under dotted names; what is not an array is left out (checkpoints also
    hold epochs, arguments ...)."""
    if not isinstance(tree, dict):
        return {}
    flat = {".".join(map(str, path)): value for path, value in flatten_dict(tree).items()}
    return {name: value for name, value in flat.items() if isinstance(value, np.ndarray)}


def check_sha256(path: Path, expected: str) -> None:
    """Raises UserError unless the checksum of the file starts with `expected` (hex; "": nothing is read)."""
    if not expected:
        return
    with open(path, "rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if not actual.startswith(expected):
        raise UserError(
            f"{path} has the SHA-256 {actual[:16]}..., expected {expected[:16]}...: it is another or a "
            "damaged file, fetch it again"
        )


def strip_prefix(tensors: dict[str, np.ndarray], anchor: str, source: str) -> dict[str, np.ndarray]:
    """The tensors of the module that holds `anchor`, without their prefix: training checkpoints wrap the
    network ("state_dict.module.encoder_q.").

    Of several such modules the shortest prefix is taken, a momentum copy (MoCo's encoder_k) only if it is
    alone.
    """
    prefixes = [
        name.removesuffix(anchor)
        for name in tensors
        if name == anchor or name.endswith("." + anchor)
    ]
    if not prefixes:
        raise UserError(
            f"{source} has no tensor {anchor}: these are the weights of another architecture, or not "
            f"weights (it has {list(tensors)[:3]} ...)"
        )
    prefix = min(prefixes, key=lambda p: (bool(re.search("momentum|encoder_k", p)), len(p)))
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def match(
    tensors: dict[str, np.ndarray], expected: Any, source: str, ignore: tuple[str, ...] = ()
) -> Any:
    """Parameters in the structure of `expected` (nested dicts of shapes), float32, from the tensors whose
    names are their dotted paths.

    "*" in a path: the leaf is a stack over layers 0, 1, ... on its first axis. Leaves called `kernel` and
    `scale` are PyTorch's `weight`, and kernels are transposed from [out, in, ...] to [..., in, out], unless
    the file itself has kernels: then it is in Flax layout. ignore: shell patterns of tensors that are not
    needed. Raises UserError naming the first tensor that is missing, of another shape, or unexpected.
    """
    torch_names = not any(name.endswith("kernel") for name in tensors)
    used, params = set(), {}
    for path, leaf in flatten_dict(expected).items():
        dotted_path = ".".join(path)
        stacked = "*" in dotted_path
        shape = leaf.shape[1:] if stacked else leaf.shape
        arrays = []
        for layer in range(leaf.shape[0]) if stacked else [0]:
            name = dotted_path.replace("*", str(layer))
            if torch_names and path[-1] in ("kernel", "scale"):
                name = name.removesuffix(path[-1]) + "weight"
            torch_layout = torch_names and path[-1] == "kernel"
            if name not in tensors:
                raise UserError(
                    f"{source} lacks the tensor {name}: it is incomplete, or the weights of another "
                    "architecture"
                )
            array = tensors[name]
            wanted = shape[:-3:-1] + shape[:-2] if torch_layout else shape
            if array.shape != wanted:
                raise UserError(
                    f"{source}: tensor {name} has the shape {list(array.shape)}, expected {list(wanted)}: "
                    "the weights of another architecture"
                )
            array = np.asarray(array, np.float32)
            arrays.append(np.moveaxis(array, (0, 1), (-1, -2)) if torch_layout else array)
            used.add(name)
        params[path] = np.stack(arrays) if stacked else arrays[0]
    for name in tensors:
        if name not in used and not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore):
            raise UserError(
                f"{source}: unexpected tensor {name}: the weights of another architecture"
            )
    return jax.tree.map(jax.numpy.asarray, unflatten_dict(params))


def rename(tensors: dict[str, np.ndarray], parts: dict[str, str]) -> dict[str, np.ndarray]:
    """Tensor names with each key of `parts` replaced by its value."""
    for old, new in parts.items():
        tensors = {name.replace(old, new): value for name, value in tensors.items()}
    return tensors


def count(tensors: dict[str, np.ndarray], pattern: str) -> int:
    """1 + the largest number that the pattern's group finds at the start of a name; 0 if there is none."""
    found = [int(m[1]) for m in map(re.compile(pattern).match, tensors) if m]
    return 1 + max(found, default=-1)


def shape_of(tensors: dict[str, np.ndarray], name: str, axes: int, source: str) -> tuple[int, ...]:
    """The shape of a tensor from which the architecture is read. Raises UserError if it is missing or has
    another number of axes."""
    if name not in tensors or tensors[name].ndim != axes:
        raise UserError(
            f"{source} lacks the tensor {name} with {axes} axes: it is incomplete, or the weights of "
            "another architecture"
        )
    return tensors[name].shape


def expected_shapes(model: Any, *inputs: tuple[int, ...]) -> Any:
    """The parameters' shapes of a Flax model called with float32 arrays of the given shapes; nothing is
    computed."""
    arrays = [jax.ShapeDtypeStruct(shape, np.float32) for shape in inputs]
    return jax.eval_shape(model.init, jax.random.key(0), *arrays)["params"]
