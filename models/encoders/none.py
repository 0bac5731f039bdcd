"""No encoder: the raw sample, flattened, is the one feature."""

from einops import rearrange
from jaxtyping import Array

from models.encoders.contract import FrozenEncoder


def load(name: str, source: str, bf16: bool | None, sha256: str) -> FrozenEncoder:
    return load_shapes(name, source, bf16)


def load_shapes(name: str, source: str, bf16: bool | None) -> FrozenEncoder:
    return FrozenEncoder(
        maps=flatten,
        params={},
        channels=None,
        image_size=None,
        names=("*",),
        statistics=(),
        patch_sizes=(),
    )


def flatten(params: dict, images: Array) -> dict[str, Array]:
    """Returns {"global": [B, 1, H W C]}."""
    return {"global": rearrange(images, "b ... -> b 1 (...)")}
