"""EfficientNet-Lite as an encoder: a small network that knows photographs, and needs no hub.

The network and its weights are in `models/efficientnet.py`.
"""

from typing import Any

from jaxtyping import Array, Float

from models.efficientnet import VARIANTS, EfficientNetLite, Variant, read_model, to_pixels
from models.encoders.contract import FrozenEncoder
from models.encoders.pretrained import compute_dtype
from utils.errors import UserError
from utils.weight_files.tensors import expected_shapes

DEFAULT = "lite0"


def load(name: str, source: str, bf16: bool | None, sha256: str) -> FrozenEncoder:
    return _frozen(*read_model(source or DEFAULT, compute_dtype(bf16), sha256))


def load_shapes(name: str, source: str, bf16: bool | None) -> FrozenEncoder:
    source = source or DEFAULT
    if source not in VARIANTS:
        raise UserError(
            f"--encoder.path {source}: the size of this {name} is not known; give one of "
            f"{', '.join(VARIANTS)}"
        )
    model = EfficientNetLite(VARIANTS[source], compute_dtype(bf16))
    return _frozen(model, expected_shapes(model, (1, 32, 32, 3)))


def _frozen(model: EfficientNetLite, params: Any) -> FrozenEncoder:
    def maps(params: Any, images: Float[Array, "B H W 3"]) -> dict[str, Array]:
        found: Any = model.apply({"params": params}, to_pixels(images))
        for vectors in ("pooled", "logits"):
            found[vectors] = found[vectors][:, None]
        return found

    ends = last_blocks(model.variant)
    return FrozenEncoder(
        maps=maps,
        params=params,
        channels=3,
        image_size=model.variant.image_size,
        # As of ConvNeXt-V2: the single locations of the finest map, 56 x 56, are left out.
        names=(*ends, "pooled", f"!{ends[0]}"),
        statistics=("map", "mean", "std"),
        patch_sizes=(2, 4),
        interpolation="cubic",
    )


def last_blocks(variant: Variant) -> tuple[str, ...]:
    """Returns the names of the last maps with strides of 4, 8, 16 and 32."""
    names = []
    for stage in (1, 2, 4, 6):
        blocks = sum(variant.depths[: stage + 1])
        names.append(f"block{blocks - 1}")
    return tuple(names)
