"""What every generator has in common: how it is called, checked, started and counted.

A generator makes a sample from noise in one pass:

    samples = model.apply({"params": params}, noise, labels, cfg_scale, style_indices)

`models/dit.py` and `models/mlp.py` hold the networks, `models/build.py` the table of their names.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from utils.errors import UserError
from utils.sharding import device_of_samples


class GeneratorModel(Protocol):
    """The part of a generator that sampling, training and evaluation use.

    A Flax module with these fields is one. The parameters are not inside: `init_params` makes the
    first ones, and `apply` takes them.
    """

    @property
    def num_classes(self) -> int:
        """Labels are 0 .. num_classes - 1."""
        ...

    @property
    def null_class(self) -> bool:
        """Whether the label num_classes, or a condition of NaN, stands for "no class"."""
        ...

    @property
    def condition_width(self) -> int:
        """The numbers of the conditions that it takes in the place of labels; 0 for labels."""
        ...

    @property
    def noise_coords(self) -> int:
        """The number of style indices of a sample."""
        ...

    @property
    def noise_classes(self) -> int:
        """Style indices are 0 .. noise_classes - 1; 0 where they are not used."""
        ...

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """The shape of the noise of one sample."""
        ...

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        ...

    @property
    def init(self) -> Any:
        """Flax's `init`: (key, noise, labels, cfg_scale, style_indices) -> variables."""
        ...

    def apply(
        self,
        variables: Mapping[str, Any],
        noise: Array,
        labels: Array,
        cfg_scale: Array,
        style_indices: Array,
        /,
    ) -> Any:
        """Returns samples [B, *sample_shape], float32.

        labels: [B] integers, or conditions [B, condition_width].
        """
        ...


def init_params(model: GeneratorModel, key: Array) -> dict:
    """Returns the first parameters of a generator, a float32 tree.

    `jax.eval_shape` of this function gives their shapes and computes nothing.
    """
    noise = jnp.zeros((1, *model.noise_shape))
    label, cfg_scale = jnp.zeros((1,), jnp.int32), jnp.ones((1,))
    if model.condition_width:
        label = jnp.zeros((1, model.condition_width))
    style_indices = jnp.zeros((1, model.noise_coords), jnp.int32)
    return jax.jit(model.init)(key, noise, label, cfg_scale, style_indices)["params"]


def draw_style_indices(model: GeneratorModel, key: Array, batch: int) -> Int[Array, "B S"]:
    """Returns uniform random style indices [batch, noise_coords], int32.

    They are zeros for a model without style embeddings.
    """
    shape = (batch, model.noise_coords)
    return jax.random.randint(key, shape, 0, max(model.noise_classes, 1), jnp.int32)


def count_parameters(params: Any) -> int:
    """Returns the number of scalars in a tree of arrays or of `jax.ShapeDtypeStruct`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


# ---- checks ----


def check_positive(model: GeneratorModel, fields: str) -> None:
    """Raises UserError for sizes that no generator can have.

    Args:
        model: a generator; its `noise_classes` must not be negative.
        fields: names of the fields that must be at least 1, separated by spaces.
    """
    for field in fields.split():
        value = getattr(model, field)
        if value < 1:
            raise UserError(f"{field} is {value}: it must be at least 1")
    if model.noise_classes < 0:
        raise UserError(
            f"noise_classes is {model.noise_classes}: it must be 0 (no style embeddings) or more"
        )


def check_inputs(
    model: GeneratorModel, noise: Array, labels: Array, cfg_scale: Array, style_indices: Array
) -> None:
    """Raises UserError where an input has another shape or type than the generator takes."""
    batch = noise.shape[0] if noise.ndim else 0
    of_labels = (batch,), jnp.integer
    if model.condition_width:
        of_labels = (batch, model.condition_width), jnp.floating
    expected = {
        "noise": (noise, (batch, *model.noise_shape), jnp.floating),
        "labels": (labels, *of_labels),
        "cfg_scale": (cfg_scale, (batch,), jnp.floating),
        "style_indices": (style_indices, (batch, model.noise_coords), jnp.integer),
    }
    for name, (array, shape, kind) in expected.items():
        if array.shape != shape:
            raise UserError(
                f"{name} has shape {array.shape}, but this {type(model).__name__} expects {shape}"
            )
        if not jnp.issubdtype(array.dtype, kind):
            raise UserError(
                f"{name} is {array.dtype}, but {kind.__name__} numbers are expected: convert it"
            )
    platform, attention = device_of_samples().platform, getattr(model, "attention", None)
    is_gpu = platform in ("gpu", "cuda")  # the second is that of a GPU that is not here
    if attention == "cudnn" and not is_gpu:
        raise UserError(
            f'attention "cudnn" needs a GPU, but JAX runs on {platform}: use attention "xla"'
        )
    if attention == "pallas" and is_gpu:
        raise UserError('attention "pallas" is for TPUs: use "cudnn" or "xla" on a GPU')
