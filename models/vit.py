"""Vision Transformers (arXiv 2010.11929) with timm's tensor names, inference only.

One network serves the encoders of images whose weights timm publishes: MAE (arXiv 2111.06377), CLIP
(2103.00020) and SigLIP 2 (2502.14786), see PUBLIC_MODELS. They differ in a few switches: whether
there is a class token, a norm before the blocks, which GELU, and how tokens become one vector.

    model, params = load_vit("mae")
    outputs = model.apply({"params": params}, pixels)   # normalised by the model's mean and std
    outputs["pooled"]                                    # [B, D]
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from models.frozen_layers import IMAGENET_MEAN, IMAGENET_STD, attend
from utils.errors import UserError
from utils.weight_files import hub
from utils.weight_files.tensors import expected_shapes, match, read_tensors
from utils.words import did_you_mean

# ---- the network -----------------------------------------------------------------------------


def exact_gelu(x: Array) -> Array:
    """GELU by the error function."""
    return nn.gelu(x, approximate=False)


def tanh_gelu(x: Array) -> Array:
    """GELU by the approximation with a hyperbolic tangent, which SigLIP was trained with."""
    return nn.gelu(x, approximate=True)


def quick_gelu(x: Array) -> Array:
    """The sigmoid approximation that OpenAI trained CLIP with."""
    return x * nn.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu": exact_gelu, "gelu_tanh": tanh_gelu, "quick_gelu": quick_gelu}
POOLS = ("token", "map")


@dataclasses.dataclass(frozen=True)
class BlockSizes:
    """What a block and SigLIP's head are made of.

    Attributes:
        width: Of a token, D.
        mlp_width: Of the hidden layer.
        num_heads: Attention heads.
        activation: Of the hidden layer.
        norm_eps: Epsilon of the norms.
        dtype: Of the computation; None for that of the input.
    """

    width: int
    mlp_width: int
    num_heads: int
    activation: Callable[[Array], Array]
    norm_eps: float
    dtype: Any

    def dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, dtype=self.dtype, name=name)

    def norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(self.norm_eps, dtype=self.dtype, use_fast_variance=False, name=name)

    def two_layers(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Applies the two-layer network of the calling module."""
        hidden = self.activation(self.dense(self.mlp_width, "mlp.fc1")(x))
        return self.dense(self.width, "mlp.fc2")(hidden)


class Block(nn.Module):
    """Attention and a two-layer network, each after a norm and beside a skip connection."""

    sizes: BlockSizes

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], _: None):
        """Returns (tokens, tokens): the signature of a scanned layer, (carry, output)."""
        sizes = self.sizes
        qkv = sizes.dense(3 * sizes.width, "attn.qkv")(sizes.norm("norm1")(x))
        q, k, v = rearrange(qkv, "b t (n h c) -> n b t h c", n=3, h=sizes.num_heads)
        x = x + sizes.dense(sizes.width, "attn.proj")(attend(q, k, v))
        x = x + sizes.two_layers(sizes.norm("norm2")(x))
        return x, x


class AttentionPool(nn.Module):
    """SigLIP's head: one learned query attends to all tokens (timm's AttentionPoolLatent)."""

    sizes: BlockSizes

    @nn.compact
    def __call__(self, tokens: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        sizes = self.sizes
        latent = self.param("latent", nn.initializers.zeros, (1, 1, sizes.width))
        latent = jnp.broadcast_to(latent, (tokens.shape[0], 1, sizes.width)).astype(tokens.dtype)
        q = sizes.dense(sizes.width, "q")(latent)
        q = rearrange(q, "b t (h c) -> b t h c", h=sizes.num_heads)
        kv = sizes.dense(2 * sizes.width, "kv")(tokens)
        k, v = rearrange(kv, "b t (n h c) -> n b t h c", n=2, h=sizes.num_heads)
        x = sizes.dense(sizes.width, "proj")(attend(q, k, v))
        x = x + sizes.two_layers(sizes.norm("norm")(x))
        return x[:, 0]


class VisionTransformer(nn.Module):
    """A Vision Transformer; its fields have timm's names and timm's defaults.

    Attributes:
        img_size: Side of the square images in pixels.
        patch_size: Side of a patch in pixels.
        embed_dim: Width of a token, D.
        depth: Number of blocks.
        num_heads: Attention heads of a block.
        mlp_ratio: Width of a block's hidden layer, over `embed_dim`.
        class_token: Whether a learned token comes before the patches.
        pre_norm: Whether the tokens are normalised before the first block too (CLIP).
        act_layer: One of ACTIVATIONS.
        global_pool: What "pooled" is: the class token, "token"; or SigLIP's attention, "map".
        norm_eps: Epsilon of every norm.
        dtype: Of the computation; None for that of the pixels.
    """

    img_size: int = 224
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    class_token: bool = True
    pre_norm: bool = False
    act_layer: str = "gelu"
    global_pool: str = "token"
    norm_eps: float = 1e-6
    dtype: Any = None

    @nn.compact
    def __call__(self, pixels: Float[Array, "B H W 3"]) -> dict[str, Array]:
        """Computes the features of normalised images.

        Returns:
            "tokens" [B, T, D]: all tokens after the last norm, the class token first;
            "pooled" [B, D];
            "block0_patches", "block1_patches" ... [B, patches, D]: the patches after each block,
            not normalised.
        """
        side = self.img_size
        if pixels.shape[1:3] != (side, side):
            raise UserError(
                f"this Vision Transformer takes images of {side}x{side}, given "
                f"{pixels.shape[1]}x{pixels.shape[2]}: resize them"
            )
        sizes = BlockSizes(
            width=self.embed_dim,
            # int() as timm does; the small addend is for ratios that were divided from a width.
            mlp_width=int(self.embed_dim * self.mlp_ratio + 1e-6),
            num_heads=self.num_heads,
            activation=ACTIVATIONS[self.act_layer],
            norm_eps=self.norm_eps,
            dtype=self.dtype,
        )
        x = self.embed(pixels)
        if self.pre_norm:
            x = sizes.norm("norm_pre")(x)
        blocks = nn.scan(Block, {"params": 0}, split_rngs={"params": True}, length=self.depth)
        x, after_blocks = blocks(sizes, name="blocks.*")(x, None)
        tokens = sizes.norm("norm")(x)

        if self.global_pool == "map":
            pooled = AttentionPool(sizes, name="attn_pool")(tokens)
        else:
            pooled = tokens[:, 0]
        outputs = {"tokens": tokens, "pooled": pooled}
        first_patch = int(self.class_token)
        for i in range(self.depth):
            outputs[f"block{i}_patches"] = after_blocks[i, :, first_patch:]
        return outputs

    def embed(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B T D"]:
        """Returns one token per patch, after the class token, each with its position added."""
        width, patch = self.embed_dim, self.patch_size
        x = nn.Conv(
            width,
            (patch, patch),
            patch,
            padding="VALID",
            use_bias=not self.pre_norm,  # the norm that follows has a bias of its own
            dtype=self.dtype,
            name="patch_embed.proj",
        )(pixels)
        x = rearrange(x, "b h w d -> b (h w) d")
        zeros = nn.initializers.zeros
        if self.class_token:
            class_token = self.param("cls_token", zeros, (1, 1, width)).astype(x.dtype)
            first = jnp.broadcast_to(class_token, (x.shape[0], 1, width))
            x = jnp.concatenate([first, x], 1)
        positions = self.param("pos_embed", zeros, (1, x.shape[1], width))
        return x + positions.astype(x.dtype)


# ---- the public models -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PublicModel:
    """A model whose weights timm publishes.

    Attributes:
        timm_name: Its name in timm, with the tag of its weights.
        repository: On the Hugging Face hub.
        config: What differs from the defaults of VisionTransformer.
        mean, std: Of the red, green and blue of its training images, in [0, 1]: pixels are
            normalised by them.
        parameters: Their number, without a classifier.
    """

    timm_name: str
    repository: str
    config: dict[str, Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    parameters: int

    @property
    def img_size(self) -> int:
        return self.config["img_size"]


LARGE = {"img_size": 224, "embed_dim": 1024, "depth": 24, "num_heads": 16}
CLIP_LARGE = LARGE | {"patch_size": 14, "pre_norm": True, "norm_eps": 1e-5}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# All of them resize images by a bicubic filter.
PUBLIC_MODELS = {
    "mae": PublicModel(
        timm_name="vit_large_patch16_224.mae",
        repository="timm/vit_large_patch16_224.mae",
        config=LARGE,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        parameters=303_301_632,
    ),
    # What timm computes by this name, and published scores with it: the exact GELU.
    "clip": PublicModel(
        timm_name="vit_large_patch14_clip_224.openai",
        repository="timm/vit_large_patch14_clip_224.openai",
        config=CLIP_LARGE,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        parameters=303_179_776,
    ),
    # The same weights with the GELU that they were trained with.
    "clip_quickgelu": PublicModel(
        timm_name="vit_large_patch14_clip_quickgelu_224.openai",
        repository="timm/vit_large_patch14_clip_224.openai",
        config=CLIP_LARGE | {"act_layer": "quick_gelu"},
        mean=CLIP_MEAN,
        std=CLIP_STD,
        parameters=303_179_776,
    ),
    "siglip2": PublicModel(
        timm_name="vit_so400m_patch16_siglip_256.v2_webli",
        repository="timm/vit_so400m_patch16_siglip_256.v2_webli",
        config={
            "img_size": 256,
            "embed_dim": 1152,
            "depth": 27,
            "num_heads": 16,
            "mlp_ratio": 4304 / 1152,
            "class_token": False,
            "act_layer": "gelu_tanh",
            "global_pool": "map",
        },
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        parameters=427_888_064,
    ),
}


def find_public_model(name: str) -> PublicModel | None:
    """Returns the public model of a short name, a name of timm or a repository, or None."""
    if name in PUBLIC_MODELS:
        return PUBLIC_MODELS[name]
    for model in PUBLIC_MODELS.values():
        if name in (model.timm_name, model.repository):
            return model
    return None


def short_name(model: PublicModel) -> str:
    """Returns the key of a public model in PUBLIC_MODELS."""
    return next(name for name, known in PUBLIC_MODELS.items() if known.timm_name == model.timm_name)


# ---- loading ---------------------------------------------------------------------------------


def load_vit(
    source: str | Path | Mapping[str, np.ndarray], sha256: str = "", **config: Any
) -> tuple[VisionTransformer, Any]:
    """Loads a Vision Transformer and its weights.

    Args:
        source: One of
            a name of PUBLIC_MODELS, a name of timm, or a repository of the Hugging Face hub
            (OWNER/REPOSITORY, or with hf:// before it), whose file is fetched once;
            NAME:PATH, the weights of the public model NAME in a local file or folder;
            the path of a file or folder with timm's tensor names (what `read_tensors` reads);
            a dict of arrays with these names.
        sha256: The expected start of the file's checksum, in hex; empty for any.
        **config: Fields of VisionTransformer. A public model needs none, and neither does a folder
            with the `config.json` of a public model.

    Returns:
        (model, params): `model.apply({"params": params}, pixels)`, see VisionTransformer.

    Raises:
        UserError: For a model that is not known, weights that are missing, damaged or of another
            architecture, and a hub that cannot be reached.
    """
    if isinstance(source, Mapping):
        return from_tensors(dict(source), "the given arrays", **config)
    public, path, place = locate(str(source))
    if public is None and not config:
        raise which_model(source)
    sizes = public.config if public else {}
    return from_tensors(read_tensors(path, sha256), place, **(sizes | config))


def read_public_model(
    source: str, sha256: str = "", **config: Any
) -> tuple[PublicModel, VisionTransformer, Any]:
    """Returns (public model, model, params) of a source that names one, as `load_vit` reads it."""
    public, path, place = locate(source)
    if public is None:
        raise which_model(source)
    tensors = read_tensors(path, sha256)
    return public, *from_tensors(tensors, place, **(public.config | config))


def which_model(source: str | Path) -> UserError:
    """Returns the error for weights that no public model is known of."""
    return UserError(
        f"{source}: which Vision Transformer is it? Give NAME:PATH with a NAME of "
        f"{', '.join(PUBLIC_MODELS)}, or its sizes"
    )


def from_tensors(
    tensors: dict[str, np.ndarray], source: str, **config: Any
) -> tuple[VisionTransformer, Any]:
    """Returns (model, params) of tensors with timm's names; `source` is for messages."""
    model = build(**config)
    shapes = parameter_shapes(model)
    # A classifier, or CLIP's projection to texts, is no part of the features.
    return model, match(tensors, shapes, source, ignore=("head.*",))


def build(**config: Any) -> VisionTransformer:
    """Returns the network of a configuration; raises UserError for one that cannot be."""
    fields = dataclasses.fields(VisionTransformer)  # ty: ignore[invalid-argument-type]
    names = [field.name for field in fields if field.name not in ("parent", "name")]
    config.pop("num_classes", None)  # part of timm's configurations: features have no classifier
    for name in config:
        if name not in names:
            raise UserError(
                f"{name} is no size of a Vision Transformer{did_you_mean(name, names)} "
                f"(known: {', '.join(names)})"
            )
    model = VisionTransformer(**config)
    if model.act_layer not in ACTIVATIONS:
        raise UserError(f"act_layer {model.act_layer}: expected one of {', '.join(ACTIVATIONS)}")
    if model.global_pool not in POOLS:
        raise UserError(f"global_pool {model.global_pool}: expected one of {', '.join(POOLS)}")
    if model.global_pool == "token" and not model.class_token:
        raise UserError("global_pool token needs a class token: give global_pool map")
    if model.img_size % model.patch_size:
        raise UserError(
            f"img_size {model.img_size} is no multiple of patch_size {model.patch_size}"
        )
    if model.embed_dim % model.num_heads:
        raise UserError(
            f"embed_dim {model.embed_dim} is no multiple of num_heads {model.num_heads}"
        )
    return model


def parameter_shapes(model: VisionTransformer) -> Any:
    """Returns the shapes of the parameters; nothing is computed."""
    return expected_shapes(model, (1, model.img_size, model.img_size, 3))


def count_parameters(model: VisionTransformer) -> int:
    """Returns the number of parameters; nothing is computed."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(model)))


def locate(source: str) -> tuple[PublicModel | None, Path, str]:
    """Returns (the public model, if it is one; the path of its weights; their name in messages)."""
    name, colon, path = source.partition(":")
    named = find_public_model(name)
    if colon and named:
        return named, Path(path), path
    repository = source.removeprefix("hf://")
    known = find_public_model(repository)
    if source not in PUBLIC_MODELS and Path(source).expanduser().exists():
        return model_of_folder(Path(source).expanduser()), Path(source), source
    if known:
        repository = known.repository
    elif repository.count("/") != 1:
        raise UserError(
            f"no Vision Transformer at {source}{did_you_mean(source, PUBLIC_MODELS)}: give a file, "
            f"a folder, hf://OWNER/REPOSITORY, or one of {', '.join(PUBLIC_MODELS)}"
        )
    offline_way = f"NAME:PATH, with a NAME of {', '.join(PUBLIC_MODELS)}"
    return known, hub.download_weights(repository, offline_way), f"hf://{repository}"


def model_of_folder(folder: Path) -> PublicModel | None:
    """Returns the public model that a folder's `config.json`, as timm writes it, names."""
    try:
        config = json.loads((folder / "config.json").read_text())
        return find_public_model(f"{config['architecture']}.{config['pretrained_cfg']['tag']}")
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a file, another kind of folder, or a file of another program
