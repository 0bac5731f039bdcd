"""Frozen feature encoders behind one contract (A.5):

    encode, params, metadata = load_encoder(where)
    encode(params, images [B,H,W,C] in [-1, 1]) -> {name: [B,T,D]}, float32, differentiable

`where` is one encoder or several joined by "+", each `NAME`, `NAME:SOURCE`, a folder of the published MAE
format, or `hf://mae_latent_640`:

    none        the raw sample, flattened: "global" [B,1,H W C]
    mae         SOURCE: a run of pretrain_mae.py, a folder of the published format, or `hf://` and its name
    dinov2      SOURCE: a file or folder of tensors (utils/tensors.py), a key of HUB["dinov2"], or
                `hf://OWNER/REPOSITORY`; the size and the registers are read from the tensors
    convnextv2  likewise
    resnet18, resnet50  likewise: supervised weights, or a MoCo-v2 or SimCLR checkpoint, whose prefixes are
                stripped

A new encoder is one function `load(source, bf16, sha256) -> Part` and one line in ENCODERS.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float

from models import convnext, dinov2, resnet
from models.features import feature_sets
from models.mae import MAE, mae_params
from models.runs import is_run, load_mae_run
from utils.errors import UserError
from utils.weight_files import hub
from utils.weight_files.tensors import match, read_tensors

# Public weights: (repository on the Hugging Face hub, the start of the SHA-256 of its model.safetensors as
# the hub's page of that file shows it, "" where it was not seen). The first is taken when no source is given.
HUB = {
    "dinov2": {
        "small": ("facebook/dinov2-small", "ae1e99fcefd534ed978cdeb8326f0803"),  # 88 MB
        "base": ("facebook/dinov2-base", "d73036b56966966d07975d696bde3317"),  # 346 MB
        "large": ("facebook/dinov2-large", "399fba97a95f22c36834418bc6937336"),  # 1.22 GB
        "small_registers": ("facebook/dinov2-with-registers-small", ""),
        "base_registers": ("facebook/dinov2-with-registers-base", ""),
        "large_registers": ("facebook/dinov2-with-registers-large", ""),
    },
    "convnextv2": {
        "base": ("facebook/convnextv2-base-22k-224", ""),  # 355 MB
        "tiny": ("facebook/convnextv2-tiny-22k-224", ""),  # 115 MB
    },
    "resnet18": {
        "supervised": ("timm/resnet18.tv_in1k", "694f673df6520a3158624e8a89af086f")
    },  # 47 MB
    "resnet50": {
        "supervised": ("timm/resnet50.a1_in1k", "773525d5821de224f8f30c33377b7a79")
    },  # 102 MB
}

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Part:
    """One encoder. maps(params, images) -> feature maps, from images of `image_size` (None: any). The last
    three are its own choice of feature sets, which the user's options replace (`feature_sets` explains
    them)."""

    maps: Callable[[Any, Float[Array, "B H W C"]], dict[str, Array]]
    params: Any
    channels: int | None  # of the images; None: any
    image_size: int | tuple[int, int] | None
    names: tuple[str, ...]
    statistics: tuple[str, ...]
    patch_sizes: tuple[int, ...]
    metadata: dict = dataclasses.field(default_factory=dict)


def load_none(source: str, bf16: bool | None, sha256: str) -> Part:
    flatten = lambda params, x: {"global": x.reshape(x.shape[0], 1, -1)}
    return Part(flatten, {}, None, None, ("*",), (), ())


def load_mae(source: str, bf16: bool | None, sha256: str) -> Part:
    from models import weights  # it re-exports load_encoder

    if not source:
        raise UserError(
            "the encoder mae has no weights of its own: give --encoder.path, or as a library mae:FOLDER"
        )
    if is_run(source):
        model, params, metadata = load_mae_run(source)
    else:
        folder = weights.find_artifact(source, "mae")
        metadata = weights.read_metadata(folder, "mae")
        model = mae_from_config(metadata["model_config"], f"{folder}/{weights.METADATA}")
        tensors = {
            name.replace("/", "."): value for name, value in weights.read_tensors(folder).items()
        }
        params = match(tensors, mae_shapes(model), str(folder))
    if bf16 is not None:
        model = model.clone(use_bf16=bf16)
    maps = lambda params, x: model.apply({"params": params}, x, method="maps")
    return Part(
        maps, params, model.in_channels, None, ("*",), ("map", "mean", "std"), (2, 4), metadata
    )


def only_used(params: Any) -> Any:
    """The parameters that features depend on: an MAE's decoder, half of it, need not be on every device."""
    if {"encoder", "decoder", "fc"} <= set(params):
        return {"encoder": params["encoder"]}
    return {k: only_used(v) if k == "mae" else v for k, v in params.items()}


def save_mae(folder: str | Path, model: MAE, params: Any, metadata: dict) -> None:
    """Writes an MAE in the published format, which `load_encoder(folder)` and the paper's own code read.
    metadata: anything for JSON, such as `step` and `ema_decay`."""
    from models import weights

    config = {name: getattr(model, name) for name in mae_fields()}
    tensors = {name: np.asarray(value) for name, value in flatten_dict(params, sep="/").items()}
    weights.write_artifact(folder, "mae", tensors, config, metadata)


def mae_fields() -> set[str]:
    """The keys of a published `model_config`."""
    return {field.name for field in dataclasses.fields(MAE)} - {"parent", "name"}


def mae_from_config(config: dict, source: str) -> MAE:
    """The MAE of a published `model_config`."""
    fields = mae_fields()
    if set(config) != fields:
        lacking, unknown = sorted(fields - set(config)), sorted(set(config) - fields)
        raise UserError(
            f"{source}: model_config lacks {lacking} and has the unknown {unknown}: it is not the "
            "configuration of a published MAE"
        )
    return MAE(**config | {"layers": tuple(config["layers"])})


def mae_shapes(model: MAE) -> Any:
    """Shapes of the parameters; nothing is computed."""
    return jax.eval_shape(lambda: mae_params(model))


def load_dinov2(source: str, bf16: bool | None, sha256: str) -> Part:
    model, params = dinov2.from_tensors(*pretrained("dinov2", source, sha256), compute_type(bf16))
    return imagenet_part(model, params, ("cls", "patches"), ("mean", "std"), ())


def load_convnextv2(source: str, bf16: bool | None, sha256: str) -> Part:
    model, params = convnext.from_tensors(
        *pretrained("convnextv2", source, sha256), compute_type(bf16)
    )
    # As in the authors' release: locations are normalised over their channels, and those of the first stage
    # (56 x 56 at 224) are left out.
    names = ("stage?", "pooled", "!stage1")
    return imagenet_part(model, params, names, ("map", "mean", "std"), (), standardise_maps)


def load_resnet(name: str, source: str, bf16: bool | None, sha256: str) -> Part:
    model, params = resnet.from_tensors(name, *pretrained(name, source, sha256), compute_type(bf16))
    return imagenet_part(model, params, ("layer*",), ("map", "mean", "std"), (2, 4))


ENCODERS = {
    "none": load_none,
    "mae": load_mae,
    "dinov2": load_dinov2,
    "convnextv2": load_convnextv2,
    "resnet18": functools.partial(load_resnet, "resnet18"),
    "resnet50": functools.partial(load_resnet, "resnet50"),
}


def imagenet_part(model, params, names, statistics, patch_sizes, finish=lambda maps: maps) -> Part:
    """An encoder of 224 x 224 RGB images under ImageNet's normalisation. Grey images serve as three equal
    channels."""

    def maps(params, x):
        x = (x + 1) / 2
        x = (x - jnp.asarray(IMAGENET_MEAN, x.dtype)) / jnp.asarray(IMAGENET_STD, x.dtype)
        return finish(model.apply({"params": params}, x))

    return Part(maps, params, 3, 224, names, statistics, patch_sizes)


def standardise_maps(maps: dict[str, Array]) -> dict[str, Array]:
    """Each location of a map: mean 0 and standard deviation 1 over its channels. Sets of vectors are left
    alone."""

    def standardise(x):
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return (x - jnp.mean(x, -1, keepdims=True)) / (jnp.std(x, -1, keepdims=True) + 1e-3)

    return {name: standardise(x) if x.ndim == 4 else x for name, x in maps.items()}


def compute_type(bf16: bool | None):
    return jnp.bfloat16 if bf16 else None


def pretrained(name: str, source: str, sha256: str) -> tuple[dict, str]:
    """(tensors, what to call them in messages) of a local file or folder, a key of HUB, or
    `hf://OWNER/REPOSITORY`."""
    source = source or next(iter(HUB[name]))
    if source not in HUB[name] and not source.startswith("hf://"):
        if not Path(source).expanduser().exists():
            keys = ", ".join(HUB[name])
            raise UserError(
                f"no weights at {source} for the encoder {name}: give a file, a folder, "
                f"hf://OWNER/REPOSITORY, or one of {keys}"
            )
        return read_tensors(source, sha256), source
    repository, known = HUB[name].get(source, (source.removeprefix("hf://"), ""))
    import huggingface_hub

    try:
        with hub.one_voice():
            path = huggingface_hub.hf_hub_download(repository, "model.safetensors")
    except Exception as error:  # the hub's client raises the errors of several network libraries
        raise UserError(
            f"cannot fetch {repository} ({type(error).__name__}): with no network, copy model.safetensors of "
            f"https://huggingface.co/{repository} and give {name}:PATH"
        ) from error
    return read_tensors(path, sha256 or known), f"hf://{repository}"


# Composition.


def split_where(where: str | Path) -> list[tuple[str, str]]:
    """The (encoder, source) pairs: "dinov2:/a/b+mae" gives ("dinov2", "/a/b"), ("mae", ""). A "+" within a
    path stays unless the name of an encoder or hf:// follows it."""
    names = "|".join(ENCODERS)
    parts = []
    for item in re.split(rf"\+(?=(?:{names})(?:[:+]|$)|hf://)", str(where)):
        name, _, source = item.partition(":")
        if name in ENCODERS:
            parts.append((name, source))
        elif item.startswith("hf://") or (item and Path(item).expanduser().is_dir()):
            parts.append(("mae", item))
        else:
            raise UserError(
                f"encoder {item!r} is neither a name ({', '.join(ENCODERS)}), nor NAME:SOURCE, nor a "
                "folder, nor hf://NAME"
            )
    repeated = {name for name, _ in parts if [n for n, _ in parts].count(name) > 1}
    if repeated:
        raise UserError(
            f"encoder {min(repeated)!r} is given twice in {where}: name each encoder once"
        )
    return parts


def join_where(name: str, path: str) -> str:
    """The `where` of an encoder's name and path flags: ("dinov2+mae", "/a,/b") -> "dinov2:/a+mae:/b". Paths
    are in the order of the names, separated by commas; an empty one stands for the encoder's own weights.
    Raises UserError."""
    names, paths = name.split("+"), path.split(",") if path else []
    for unknown in [
        n for n in names if n not in ENCODERS
    ]:  # not NAME:SOURCE: options and weights go by name
        raise UserError(
            f"encoder {unknown!r} is unknown: give {', '.join(ENCODERS)}, and weights by --encoder.path"
        )
    if len(paths) > len(names):
        raise UserError(
            f"{len(paths)} paths ({path}) for the encoder {name}: give one for each name"
        )
    paths += [""] * (len(names) - len(paths))
    return "+".join(f"{n}:{p}" if p else n for n, p in zip(names, paths))


def takes_pixels(name: str) -> bool:
    """Whether one of the encoders that are joined by "+" takes images alone, so that latents are decoded for
    it. An MAE is of what it was trained on."""
    return any(part in ENCODERS.keys() - {"none", "mae"} for part in name.split("+"))


def options_of(e) -> dict[str, dict[str, Any]]:
    """The options of `load_encoder` that the flags `encoder.*` choose. Where several encoders are joined by
    "+", so are their values, in the same order; an empty one stands for the encoder's own."""
    names = e.name.split("+")

    def each(flag, parse):
        given = e[flag].split("+") if e[flag] else []
        if len(given) > len(names):
            raise UserError(
                f"--encoder.{flag} {e[flag]} is for {len(given)} encoders, but there is {e.name}: "
                "give one for each name, joined by +"
            )
        if any(value and name == "none" for name, value in zip(names, given)):
            raise UserError(
                f"--encoder.{flag} {e[flag]}: the raw sample (none) has nothing to choose; leave its place empty"
            )
        try:
            return {name: parse(value) for name, value in zip(names, given) if value}
        except ValueError:
            raise UserError(
                f"--encoder.{flag} {e[flag]}: expected {PATTERNS[flag]} for each encoder, joined by +"
            ) from None

    words = lambda text: tuple(word.strip() for word in text.split(","))
    positive = lambda word: int(word) if int(word) > 0 else int("not positive")
    numbers = lambda text: () if text == "none" else tuple(map(positive, words(text)))
    options = {
        "names": each("layers", words),
        "statistics": each("statistics", words),
        "patch_sizes": each("patch_sizes", numbers),
        "image_size": each("image_size", positive),
    }
    if e.bf16 != "auto":
        options["bf16"] = e.bf16 == "on"
    return options


PATTERNS = {
    "layers": "patterns such as layer3*,layer4*,!conv1",
    "statistics": "some of map,mean,std",
    "patch_sizes": "sizes such as 2,4, or none",
    "image_size": "a side in pixels such as 224",
}


def set_weights(e) -> Callable[[str], float]:
    """The weight of a feature set's loss, by the flag `encoder.weights`: one number, or one for each encoder.
    Raises UserError for others."""
    names = e.name.split("+")
    try:
        given = tuple(map(float, e.weights.split(",")))
    except ValueError:
        given = ()
    if len(given) not in (1, len(names)) or not all(0 < w < np.inf for w in given):
        raise UserError(
            f"--encoder.weights {e.weights}: expected a number above 0, or one for each of the encoders "
            f"{e.name}, separated by commas"
        )
    by_name = dict(zip(names, given * len(names) if len(given) == 1 else given))
    metadata = {"encoders": names}
    return lambda set_name: by_name[encoder_of(set_name, metadata)]


OPTIONS = ("names", "statistics", "patch_sizes", "image_size", "bf16", "sha256")


def load_encoder(
    where: str | Path,
    decode: tuple[Callable, Any] | None = None,
    loaders: dict | None = None,
    **options,
):
    """Loads a frozen encoder: (encode, params, metadata).

    where: see the head of this file. encode(params, images) is pure and can be jitted and differentiated; it
    returns float32 sets {name: [B,T,D]} (float64 for float64 images). With several encoders `params` is
    {encoder: its params} and the sets are called "dinov2/cls" ..; "global" of `none` keeps its name.
    metadata: the encoder's own (a published MAE: its metadata.json), or {encoder: its own}; and "encoders",
    the list of them (`encoder_of` finds that of a set).

    decode: (decode_fn, decode_params) for latents: an encoder of pixels gets decode_fn(decode_params,
    latents) -> images in [-1, 1]; the decoder's parameters are then in params["decode"], and gradients reach
    the latents. An encoder with as many channels as the latents gets them directly.

    loaders: in the place of ENCODERS.

    options, each for all encoders or a dict {encoder: value}; None: the encoder's own.
        names        shell patterns of the feature maps to use; "!PATTERN" drops sets (`feature_sets`)
        statistics   of "map", "mean", "std"
        patch_sizes  of the patch means and stds
        image_size   that images are resized to: a number or (height, width)
        bf16         whether to compute in bfloat16
        sha256       the expected start of the weight file's checksum
    Raises UserError for unknown names, weights that are missing, damaged or of another architecture, and
    images of the wrong kind.
    """
    for name in set(options) - set(OPTIONS):
        raise UserError(f"encoder option {name!r} is unknown: choose from {', '.join(OPTIONS)}")
    parts = {}
    for name, source in split_where(where):
        chosen = {key: v.get(name) if isinstance(v, dict) else v for key, v in options.items()}
        part = (loaders or ENCODERS)[name](
            source, chosen.pop("bf16", None), chosen.pop("sha256", None) or ""
        )
        if name != "none":  # the raw sample has nothing to choose
            part = dataclasses.replace(
                part, **{key: v for key, v in chosen.items() if v is not None}
            )
        parts[name] = part

    single = len(parts) == 1 and decode is None
    params = {name: part.params for name, part in parts.items()}
    if decode is not None:
        params["decode"] = decode[1]

    def encode(params, images):
        images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
        decoded = None
        out = {}
        for name, part in parts.items():
            x = images
            if decode is not None and part.channels not in (None, x.shape[-1]):
                decoded = decode[0](params["decode"], images) if decoded is None else decoded
                x = decoded
            sets = encode_part(name, part, params if single else params[name], x)
            prefix = "" if name == "none" or len(parts.keys() - {"none"}) == 1 else f"{name}/"
            out |= {prefix + key: value for key, value in sets.items()}
        return out

    own = (
        part.metadata if len(parts) == 1 else {name: part.metadata for name, part in parts.items()}
    )
    metadata = own | {"where": str(where), "encoders": list(parts)}
    return encode, params[next(iter(parts))] if single else params, metadata


def encode_part(
    name: str, part: Part, params: Any, images: Float[Array, "B H W C"]
) -> dict[str, Float[Array, "B T D"]]:
    """The feature sets of one encoder."""
    if part.channels not in (None, images.shape[-1]) and not (
        part.channels == 3 and images.shape[-1] == 1
    ):
        raise UserError(
            f"the encoder {name} takes images of {part.channels} channels, given {images.shape[-1]}: "
            "latents need the VAE's decoder (decode), or an encoder of latents"
        )
    if part.image_size is not None:
        size = (
            (part.image_size,) * 2 if isinstance(part.image_size, int) else tuple(part.image_size)
        )
        if images.shape[1:3] != size:
            shape = (images.shape[0], *size, images.shape[-1])
            images = jax.image.resize(images, shape, "bilinear")  # antialiased where it shrinks
    return feature_sets(part.maps(params, images), part.names, part.statistics, part.patch_sizes)


def encoder_of(set_name: str, metadata: dict) -> str:
    """The encoder that a feature set of `load_encoder(...)` belongs to, for a weight per encoder."""
    if set_name == "global" and "none" in metadata["encoders"]:
        return "none"
    prefix = set_name.split("/")[0]
    if prefix in metadata["encoders"]:
        return prefix
    return next(name for name in metadata["encoders"] if name != "none")
