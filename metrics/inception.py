"""The FID network: Inception-v3 (Szegedy et al. 2016, arXiv 1512.00567) as in TensorFlow's 2015-12-05 graph.

It differs from the common one: average pools do not count their padding, the last block pools by maximum,
there are 1008 classes, images are resized by TensorFlow 1's rule and scaled by (x - 128) / 128. Published
FIDs rest on it.

Weights: the standard public file of pytorch-fid, or any file with its tensor names.
"""

import hashlib
import http.client
import os
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, UInt8
from numpy import ndarray

from metrics.resize import resize
from utils.errors import UserError
from utils.weight_files.torch_file import read_torch_file

WEIGHTS_NAME = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS_NAME}"
)
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
WEIGHTS_BYTES = 95_628_359

IMAGE_SIZE = 299
TAPS = {
    "64": 64,
    "192": 192,
    "768": 768,
    "2048": 2048,
    "logits_unbiased": 1008,
}  # name -> number of features

Features = Callable[[dict, Array], dict[str, Array]]


def load_inception(where: str | Path | None, resize_mode: str = "tf") -> tuple[Features, dict]:
    """(features, params) of the FID network.

    where: None or "" for the standard public file (fetched once, 91 MiB), or the path of a `.pth`,
        `.safetensors` or `.npz` with the same tensor names.
    resize_mode: how images become 299 x 299: "tf" (the standard), "pytorch" or "clean", see resize.py. As
        pytorch-fid does, "pytorch" also scales 0 to 255 to [-1, 1], where the others take (x - 128) / 128.

    features(params, images [B, H, W, 3] uint8) -> float32 arrays by name: "64", "192", "768", "2048", the
    spatial means after the first and second max pool, Mixed_6e and Mixed_7c, each as wide as its name;
    "logits_unbiased" [B, 1008]. It works inside jit and on sharded batches, and compiles once per batch and
    image size; an image's features do not depend on the others of its batch.

    Raises UserError for a file that is missing, damaged or of another network, and when there is no network.
    """
    path = Path(where) if where else _standard_file()
    params = jax.tree.map(jnp.asarray, _to_params(_read_tensors(path)))
    network = jax.jit(lambda params, images: InceptionV3().apply({"params": params}, images))

    def features(
        params: dict, images: UInt8[Array | ndarray, "B H W 3"]
    ) -> dict[str, Float[Array, "B _"]]:
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise UserError(
                f"images {images.dtype} {images.shape} given; expected uint8 [B, H, W, 3]; scale "
                "to 0 to 255 and round first, repeat the channel of grey images three times"
            )
        return network(params, prepare(images, resize_mode))

    return features, params


def prepare(
    images: UInt8[Array | ndarray, "B H W 3"], resize_mode: str
) -> Float[Array, "B 299 299 3"]:
    """The network's input before its (x - 128) / 128."""
    x = resize(images, IMAGE_SIZE, resize_mode)
    return x * (128 / 127.5) if resize_mode == "pytorch" else x


def in_batches(
    features: Features,
    params: dict,
    images: UInt8[ndarray, "N H W 3"],
    batch_size: int,
    taps: Sequence[str],
) -> dict[str, Float[ndarray, "N _"]]:
    """Some taps of images on the host. The last batch is filled up and cut: one image size compiles once."""
    out = {tap: np.empty((len(images), TAPS[tap]), np.float32) for tap in taps}
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        filled = np.pad(batch, [(0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)])
        result = features(params, filled)
        for tap in taps:
            out[tap][start : start + len(batch)] = np.asarray(result[tap])[: len(batch)]
    return out


# -------------------------------------------------------------------------------------- the network


class Conv(nn.Module):
    """Convolution, batch normalisation (folded into kernel and bias when the weights are read), ReLU."""

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x):
        # HIGHEST: the defaults, TF32 on a GPU and bfloat16 on a TPU, would be another network
        x = nn.Conv(
            self.features,
            self.kernel,
            self.stride,
            self.padding,
            kernel_init=nn.initializers.zeros,
            precision=jax.lax.Precision.HIGHEST,
            name="conv",
        )(x)
        return nn.relu(x)


def _average_pool(x):
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _max_pool(x, stride=2, padding="VALID"):
    return nn.max_pool(x, (3, 3), (stride, stride), padding)


class BlockA(nn.Module):
    pool_features: int

    @nn.compact
    def __call__(self, x):  # [B, 35, 35, C] -> [B, 35, 35, 224 + pool_features]
        a = Conv(64, (1, 1), name="branch1x1")(x)
        b = Conv(48, (1, 1), name="branch5x5_1")(x)
        b = Conv(64, (5, 5), name="branch5x5_2")(b)
        c = Conv(64, (1, 1), name="branch3x3dbl_1")(x)
        c = Conv(96, (3, 3), name="branch3x3dbl_2")(c)
        c = Conv(96, (3, 3), name="branch3x3dbl_3")(c)
        d = Conv(self.pool_features, (1, 1), name="branch_pool")(_average_pool(x))
        return jnp.concatenate([a, b, c, d], -1)


class BlockB(nn.Module):
    @nn.compact
    def __call__(self, x):  # [B, 35, 35, 288] -> [B, 17, 17, 768]
        a = Conv(384, (3, 3), 2, "VALID", name="branch3x3")(x)
        b = Conv(64, (1, 1), name="branch3x3dbl_1")(x)
        b = Conv(96, (3, 3), name="branch3x3dbl_2")(b)
        b = Conv(96, (3, 3), 2, "VALID", name="branch3x3dbl_3")(b)
        return jnp.concatenate([a, b, _max_pool(x)], -1)


class BlockC(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):  # [B, 17, 17, 768] -> [B, 17, 17, 768]
        a = Conv(192, (1, 1), name="branch1x1")(x)
        b = Conv(self.width, (1, 1), name="branch7x7_1")(x)
        b = Conv(self.width, (1, 7), name="branch7x7_2")(b)
        b = Conv(192, (7, 1), name="branch7x7_3")(b)
        c = Conv(self.width, (1, 1), name="branch7x7dbl_1")(x)
        c = Conv(self.width, (7, 1), name="branch7x7dbl_2")(c)
        c = Conv(self.width, (1, 7), name="branch7x7dbl_3")(c)
        c = Conv(self.width, (7, 1), name="branch7x7dbl_4")(c)
        c = Conv(192, (1, 7), name="branch7x7dbl_5")(c)
        d = Conv(192, (1, 1), name="branch_pool")(_average_pool(x))
        return jnp.concatenate([a, b, c, d], -1)


class BlockD(nn.Module):
    @nn.compact
    def __call__(self, x):  # [B, 17, 17, 768] -> [B, 8, 8, 1280]
        a = Conv(192, (1, 1), name="branch3x3_1")(x)
        a = Conv(320, (3, 3), 2, "VALID", name="branch3x3_2")(a)
        b = Conv(192, (1, 1), name="branch7x7x3_1")(x)
        b = Conv(192, (1, 7), name="branch7x7x3_2")(b)
        b = Conv(192, (7, 1), name="branch7x7x3_3")(b)
        b = Conv(192, (3, 3), 2, "VALID", name="branch7x7x3_4")(b)
        return jnp.concatenate([a, b, _max_pool(x)], -1)


class BlockE(nn.Module):
    pool: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x):  # [B, 8, 8, C] -> [B, 8, 8, 2048]
        a = Conv(320, (1, 1), name="branch1x1")(x)
        b = Conv(384, (1, 1), name="branch3x3_1")(x)
        b = [Conv(384, (1, 3), name="branch3x3_2a")(b), Conv(384, (3, 1), name="branch3x3_2b")(b)]
        c = Conv(448, (1, 1), name="branch3x3dbl_1")(x)
        c = Conv(384, (3, 3), name="branch3x3dbl_2")(c)
        c = [
            Conv(384, (1, 3), name="branch3x3dbl_3a")(c),
            Conv(384, (3, 1), name="branch3x3dbl_3b")(c),
        ]
        d = Conv(192, (1, 1), name="branch_pool")(self.pool(x))
        return jnp.concatenate([a, *b, *c, d], -1)


class InceptionV3(nn.Module):
    """[B, 299, 299, 3], values 0 to 255 -> the taps. Submodules carry the names of the public file."""

    @nn.compact
    def __call__(self, images: Float[Array, "B 299 299 3"]) -> dict[str, Float[Array, "B _"]]:
        taps = {}
        x = (images - 128) / 128
        x = Conv(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)  # [B, 149, 149, 32]
        x = Conv(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = Conv(64, (3, 3), name="Conv2d_2b_3x3")(x)
        x = _max_pool(x)  # [B, 73, 73, 64]
        taps["64"] = x.mean((1, 2))
        x = Conv(80, (1, 1), name="Conv2d_3b_1x1")(x)
        x = Conv(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x)
        x = _max_pool(x)  # [B, 35, 35, 192]
        taps["192"] = x.mean((1, 2))
        x = BlockA(32, name="Mixed_5b")(x)
        x = BlockA(64, name="Mixed_5c")(x)
        x = BlockA(64, name="Mixed_5d")(x)
        x = BlockB(name="Mixed_6a")(x)  # [B, 17, 17, 768]
        x = BlockC(128, name="Mixed_6b")(x)
        x = BlockC(160, name="Mixed_6c")(x)
        x = BlockC(160, name="Mixed_6d")(x)
        x = BlockC(192, name="Mixed_6e")(x)
        taps["768"] = x.mean((1, 2))
        x = BlockD(name="Mixed_7a")(x)  # [B, 8, 8, 1280]
        x = BlockE(_average_pool, name="Mixed_7b")(x)
        x = BlockE(lambda x: _max_pool(x, 1, "SAME"), name="Mixed_7c")(x)
        taps["2048"] = x = x.mean((1, 2))  # [B, 2048]
        kernel = self.param("fc", nn.initializers.zeros, (2048, 1008))
        # In 16 partial sums: in a single one, float32 rounding differs between batch sizes by more than 1e-6
        partial = jnp.einsum(
            "bpd,pdk->bpk",
            x.reshape(-1, 16, 128),
            kernel.reshape(16, 128, 1008),
            precision=jax.lax.Precision.HIGHEST,
        )
        taps["logits_unbiased"] = partial.sum(1)
        return taps


# -------------------------------------------------------------------------------------- the weights


def _to_params(tensors: dict[str, ndarray]) -> dict:
    """Public names and layouts to ours: [out, in, h, w] to [h, w, in, out], normalisation folded in."""
    image = jnp.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 3))
    spec = jax.eval_shape(InceptionV3().init, jax.random.key(0), image)["params"]
    params = {}
    for path, expected in flatten_dict(spec).items():
        *layer, parameter = path
        conv = ".".join(layer)  # "Conv2d_1a_3x3.conv", "Mixed_5b.branch1x1.conv"
        if parameter == "fc":
            value = _take(tensors, "fc.weight", expected.shape[::-1]).T
        else:
            bn = conv.removesuffix("conv") + "bn"
            gamma, beta, mean, variance = (
                _take(tensors, f"{bn}.{name}", expected.shape[-1:])
                for name in ("weight", "bias", "running_mean", "running_var")
            )
            scale = gamma / np.sqrt(variance + 1e-3)
            if parameter == "kernel":
                h, w, c_in, c_out = expected.shape
                value = (
                    _take(tensors, f"{conv}.weight", (c_out, c_in, h, w)).transpose(2, 3, 1, 0)
                    * scale
                )
            else:
                value = beta - mean * scale
        params[path] = np.ascontiguousarray(value, np.float32)
    return unflatten_dict(params)


def _take(tensors, name, shape):
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


def _read_tensors(path: Path) -> dict[str, ndarray]:
    if not path.is_file():
        raise UserError(f"no Inception weights at {path}; give a .pth, .safetensors or .npz file")
    if path.name == WEIGHTS_NAME:
        _verify(path, path)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        if path.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)
    except (
        OSError,
        EOFError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
        safetensors.SafetensorError,
    ) as error:
        raise UserError(
            f"{path} is damaged or not a {path.suffix} file ({error}); get it again"
        ) from error
    tensors = read_torch_file(path)
    if not isinstance(tensors, dict) or not all(
        isinstance(value, ndarray) for value in tensors.values()
    ):
        raise UserError(
            f"{path} holds no plain {{name: tensor}}; expected the tensors of {WEIGHTS_NAME}"
        )
    return tensors


def _standard_file() -> Path:
    """The public file in the user's cache, fetched when it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jax-drift"
    path = cache / WEIGHTS_NAME
    if path.exists():
        return path
    temporary = None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Written under a name of its own and renamed when complete: several processes may do this at once.
        with tempfile.NamedTemporaryFile(dir=cache, delete=False) as file:
            temporary = Path(file.name)
            with urllib.request.urlopen(WEIGHTS_URL, timeout=30) as response:
                while block := response.read(1 << 20):
                    file.write(block)
        _verify(temporary, WEIGHTS_URL)
        temporary.replace(path)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        raise UserError(
            f"cannot fetch the Inception weights to {cache} ({reason}); download {WEIGHTS_URL} "
            "elsewhere and pass --inception_weights PATH"
        ) from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)
    return path


def _verify(path: Path, source) -> None:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WEIGHTS_SHA256:
        raise UserError(
            f"{source} is incomplete or changed: {path.stat().st_size} bytes, sha {digest[:8]} "
            f"(expected {WEIGHTS_BYTES}, {WEIGHTS_SHA256[:8]}); delete it and get it again"
        )
