"""Vision Transformers with timm's weights (MAE, CLIP, SigLIP 2) as encoders.

The network, the public models and their weights are in `models/vit.py`.
"""

from typing import Any

from einops import rearrange
from jaxtyping import Array, Float

from models.encoders.contract import FrozenEncoder
from models.encoders.pretrained import compute_dtype
from models.frozen_layers import normalise
from models.vit import (
    PUBLIC_MODELS,
    PublicModel,
    VisionTransformer,
    build,
    find_public_model,
    parameter_shapes,
    read_public_model,
    short_name,
)
from utils.errors import UserError

DEFAULT = "mae"


def load(name: str, source: str, bf16: bool | None, sha256: str) -> FrozenEncoder:
    public, model, params = read_public_model(source or DEFAULT, sha256, dtype=compute_dtype(bf16))
    return _frozen(public, model, params)


def load_shapes(name: str, source: str, bf16: bool | None) -> FrozenEncoder:
    public = find_public_model((source or DEFAULT).removeprefix("hf://").split(":")[0])
    if public is None:
        raise UserError(
            f"--encoder.path {source}: the size of this {name} is not known; give one of "
            f"{', '.join(PUBLIC_MODELS)}"
        )
    model = build(**public.config, dtype=compute_dtype(bf16))
    return _frozen(public, model, parameter_shapes(model))


def _frozen(public: PublicModel, model: VisionTransformer, params: Any) -> FrozenEncoder:
    side = model.img_size // model.patch_size
    first_patch = int(model.class_token)

    def as_map(patches: Float[Array, "B T D"]) -> Float[Array, "B h w D"]:
        return rearrange(patches, "b (h w) d -> b h w d", h=side)

    def maps(params: Any, images: Float[Array, "B H W 3"]) -> dict[str, Array]:
        """Returns "block0", "block1" ..., "patches" after the last norm, and "pooled"."""
        x = normalise(images, public.mean, public.std)
        outputs: Any = model.apply({"params": params}, x)
        found = {}
        for i in range(model.depth):
            found[f"block{i}"] = as_map(outputs[f"block{i}_patches"])
        found["patches"] = as_map(outputs["tokens"][:, first_patch:])
        found["pooled"] = outputs["pooled"][:, None]
        return found

    return FrozenEncoder(
        maps=maps,
        params=params,
        channels=3,
        image_size=model.img_size,
        names=("pooled", "patches"),
        statistics=("mean", "std"),
        patch_sizes=(),
        metadata={"model": short_name(public)},
        interpolation="cubic",
    )
