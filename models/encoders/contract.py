"""What every encoder gives, before its feature maps become sets of vectors."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from jaxtyping import Array

# (params, images [B, H, W, C] in [-1, 1]) -> feature maps [B, h, w, D], or vectors [B, T, D]
Maps = Callable[[Any, Array], dict[str, Array]]
# (params, images [B, H, W, C] in [-1, 1]) -> sets of vectors {name: [B, T, D]}, float32
Encode = Callable[[Any, Array], dict[str, Array]]
# (decode, its parameters): decode(parameters, latents) -> images [B, H, W, 3] in [-1, 1]
Decoder = tuple[Callable[[Any, Array], Array], Any]


@dataclasses.dataclass(frozen=True)
class FrozenEncoder:
    """One encoder with its weights.

    `names`, `statistics` and `patch_sizes` are its own choice of feature sets, which the user's
    options replace; `models.features.feature_sets` explains them.

    Attributes:
        maps: (params, images) -> feature maps.
        params: the weights, or their shapes.
        channels: of the images that it takes; None for any.
        image_size: the side of these images, or (height, width); None for any.
        names: shell patterns of the feature maps to use.
        statistics: some of "map", "mean", "std".
        patch_sizes: sides of the patches with a mean and a deviation of their own.
        metadata: what its files say of it.
        interpolation: how images become of that size, "bilinear" or "cubic" (as Pillow's bicubic);
            both look at all pixels where they shrink.
        fit: training samples [S, H, W, C], float -> the weights, of an encoder that has none of its
            own.
    """

    maps: Maps
    params: Any
    channels: int | None
    image_size: int | tuple[int, int] | None
    names: tuple[str, ...]
    statistics: tuple[str, ...]
    patch_sizes: tuple[int, ...]
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    interpolation: str = "bilinear"
    fit: Callable[[Any], Any] | None = None


class EncoderModule(Protocol):
    """What a file of this folder defines."""

    def load(self, name: str, source: str, bf16: bool | None, sha256: str) -> FrozenEncoder:
        """Returns the encoder with its weights.

        Args:
            name: its key in ENCODERS.
            source: where the weights are, or "" for its own.
            bf16: compute in bfloat16; None for the encoder's own choice.
            sha256: the expected start of the weight file's checksum, in hex; "" for any.
        Raises:
            UserError: weights that are missing, damaged or of another architecture.
        """
        ...

    def load_shapes(self, name: str, source: str, bf16: bool | None) -> FrozenEncoder:
        """Returns the encoder with shapes for weights; nothing is read or fetched.

        Raises:
            UserError: the size is not known without reading the weights.
        """
        ...
