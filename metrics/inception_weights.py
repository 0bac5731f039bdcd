"""The weights of the FID network: the standard public file of pytorch-fid, or one like it.

pytorch-fid: https://github.com/mseitzer/pytorch-fid. Any `.pth`, `.safetensors` or `.npz` with the
same tensor names will do.
"""

import hashlib
import http.client
import shutil
import tempfile
import urllib.request
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy import ndarray

from metrics.inception_network import IMAGE_SIZE, InceptionV3
from utils.errors import UserError
from utils.npz import read_npz
from utils.paths import cache_folder
from utils.weight_files.torch_file import read_torch_file

WEIGHTS_NAME = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS_NAME}"
)
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
WEIGHTS_BYTES = 95_628_359

EPSILON = 1e-3  # of the network's batch normalisation

# What is raised for .safetensors that are not what they seem.
DAMAGED = (OSError, EOFError, ValueError, safetensors.SafetensorError)


# ---------------------------------------------------------------- from the file's tensors to ours


def to_params(tensors: dict[str, ndarray]) -> dict:
    """Returns the parameters of `InceptionV3` from the tensors of the public file, float32.

    Kernels [out, in, h, w] become [h, w, in, out], and batch normalisation is folded into them and
    their biases. Raises UserError for tensors that are missing or of another shape.
    """
    image = jnp.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 3))
    spec = jax.eval_shape(InceptionV3().init, jax.random.key(0), image)["params"]
    expected_of_path: dict[tuple, jax.ShapeDtypeStruct] = flatten_dict(spec)
    params = {}
    for path, expected in expected_of_path.items():
        *layer, parameter = path
        if parameter == "fc":
            value = _take(tensors, "fc.weight", expected.shape[::-1]).T
        else:
            conv = ".".join(layer)  # "Conv2d_1a_3x3.conv", "Mixed_5b.branch1x1.conv"
            value = _folded(tensors, conv, parameter, expected.shape)
        params[path] = np.ascontiguousarray(value, np.float32)
    return unflatten_dict(params)


def _folded(
    tensors: dict[str, ndarray], conv: str, parameter: str, shape: tuple[int, ...]
) -> ndarray:
    """Returns "kernel" or "bias" of a convolution with its batch normalisation."""
    norm = conv.removesuffix("conv") + "bn"
    channels = shape[-1:]
    gamma = _take(tensors, f"{norm}.weight", channels)
    beta = _take(tensors, f"{norm}.bias", channels)
    mean = _take(tensors, f"{norm}.running_mean", channels)
    variance = _take(tensors, f"{norm}.running_var", channels)
    scale = gamma / np.sqrt(variance + EPSILON)
    if parameter == "bias":
        return beta - mean * scale
    height, width, c_in, c_out = shape
    kernel = _take(tensors, f"{conv}.weight", (c_out, c_in, height, width))
    return rearrange(kernel, "c_out c_in h w -> h w c_in c_out") * scale


def _take(tensors: dict[str, ndarray], name: str, shape: tuple[int, ...]) -> ndarray:
    """Returns a tensor as float64. Raises UserError if it is missing or of another shape."""
    if name not in tensors:
        raise UserError(
            f"the Inception weights have no tensor {name} (they hold {len(tensors)} others); "
            f"expected the tensors of {WEIGHTS_NAME}"
        )
    if tensors[name].shape != shape:
        raise UserError(
            f"the Inception weights' tensor {name} has shape {tensors[name].shape}, expected "
            f"{shape} as in {WEIGHTS_NAME}"
        )
    return tensors[name].astype(np.float64)


# ---------------------------------------------------------------- files


def read_tensors(path: Path) -> dict[str, ndarray]:
    """Returns {name: tensor} of a file.

    Raises UserError if it is missing, damaged or of something else, or if it has the name of the
    standard file and is another.
    """
    if not path.is_file():
        raise UserError(f"no Inception weights at {path}; give a .pth, .safetensors or .npz file")
    if path.name == WEIGHTS_NAME:
        _verify(path, str(path))
    try:
        if path.suffix == ".npz":
            return read_npz(path)
        if path.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(
            f"{path} is damaged or not a {path.suffix} file ({error}); get it again"
        ) from error
    tensors = read_torch_file(path)
    if not isinstance(tensors, dict) or not all(isinstance(t, ndarray) for t in tensors.values()):
        raise UserError(
            f"{path} holds no plain {{name: tensor}}; expected the tensors of {WEIGHTS_NAME}"
        )
    return tensors


def standard_file() -> Path:
    """Returns the public file in the user's cache, fetched when it is not there yet.

    Raises UserError if it cannot be fetched.
    """
    cache = cache_folder()
    path = cache / WEIGHTS_NAME
    if path.exists():
        return path
    temporary = None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Written under a name of its own and renamed when it is complete: several processes may
        # do this at once.
        with tempfile.NamedTemporaryFile(dir=cache, delete=False) as file:
            temporary = Path(file.name)
            with urllib.request.urlopen(WEIGHTS_URL, timeout=30) as response:
                shutil.copyfileobj(response, file, 1 << 20)
        _verify(temporary, WEIGHTS_URL)
        temporary.replace(path)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError.
        reason = getattr(error, "reason", error)
        raise UserError(
            f"cannot fetch the Inception weights to {cache} ({reason}); download {WEIGHTS_URL} "
            "elsewhere and pass --inception_weights PATH"
        ) from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)
    return path


def _verify(path: Path, name: str) -> None:
    """Raises UserError unless the file at `path`, which came from `name`, is the standard one."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WEIGHTS_SHA256:
        raise UserError(
            f"{name} is incomplete or changed: {path.stat().st_size} bytes, sha {digest[:8]} "
            f"(expected {WEIGHTS_BYTES}, {WEIGHTS_SHA256[:8]}); delete it and get it again"
        )
