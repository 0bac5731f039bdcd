"""The conditioning vector of a generator: what it knows beside the noise (section A.2)."""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from models.layers import Dense, normalisation, small_normal

ALPHA_FREQUENCIES = 128  # the guidance scale enters as 128 cosines and 128 sines
ALPHA_WEIGHT = 0.02  # how loudly the guidance scale speaks beside the class embedding


class Conditioning(nn.Module):
    """Class embedding + sum of style embeddings + 0.02 RMSNorm(MLP(sinusoids of alpha)).

    The style embeddings are noise of a second kind: each of `noise_coords` codebooks gives one of
    its `noise_classes` vectors, picked at random. They improve the FID from 8.86 to 8.46.

    Where a vector is given in the place of a label, RMSNorm(MLP(vector)) is in the place of the
    class embedding.

    Attributes:
        cond_dim: width of the vector.
        num_classes: labels are 0 .. num_classes - 1.
        noise_classes: entries of each codebook; 0 for no style embeddings.
        noise_coords: number of codebooks.
        null_class: one more label, num_classes: the unconditional class.
        condition_width: numbers of the vector that stands in the place of a label, such as the
            embedding of a text; 0 for labels. NaN is then the null class.
    """

    cond_dim: int
    num_classes: int
    noise_classes: int
    noise_coords: int
    null_class: bool
    condition_width: int = 0

    @nn.compact
    def __call__(
        self,
        labels: Int[Array, " B"] | Float[Array, "B W"],
        cfg_scale: Float[Array, " B"],
        style_indices: Int[Array, "B S"],
    ) -> Float[Array, "B K"]:
        """Returns the vectors [B, cond_dim]; an index that is too large gives NaN."""
        if self.condition_width:
            cond = self._project(labels)
        else:
            classes = self.num_classes + self.null_class
            embedding = self.param("class_embedding", small_normal, (classes, self.cond_dim))
            cond = jnp.asarray(embedding).at[labels].get(mode="fill", fill_value=jnp.nan)  # [B, K]
        if self.noise_classes:
            shape = (self.noise_coords, self.noise_classes, self.cond_dim)
            codebooks = self.param("style_codebooks", small_normal, shape)
            styles = jnp.asarray(codebooks).at[jnp.arange(self.noise_coords), style_indices]
            styles = styles.get(mode="fill", fill_value=jnp.nan)  # [B, S, K]
            cond += styles.sum(axis=1)

        dense = functools.partial(nn.Dense, self.cond_dim, kernel_init=small_normal)
        alpha = dense(name="alpha_in")(sinusoids(cfg_scale))
        alpha = dense(name="alpha_out")(nn.silu(alpha))
        return cond + ALPHA_WEIGHT * normalisation(True, "alpha_norm")(alpha)

    def _project(self, conditions: Float[Array, "B W"]) -> Float[Array, "B K"]:
        """Returns RMSNorm(MLP(conditions)); without a null class it is NaN for NaN.

        With the norm conditions count from the start, whatever their unit.
        """
        is_null = jnp.isnan(conditions[:, :1]) & self.null_class  # [B, 1]
        hidden = Dense(self.cond_dim, name="condition_in")(jnp.where(is_null, 0, conditions))
        cond = Dense(self.cond_dim, name="condition_out")(nn.silu(hidden))
        cond = normalisation(True, "condition_norm")(cond)
        if not self.null_class:
            return cond
        null = self.param("null_condition", small_normal, (self.cond_dim,))
        return jnp.where(is_null, null, cond)


def sinusoids(alpha: Float[Array, " B"]) -> Float[Array, "B 256"]:
    """Returns cosines and sines of alpha at frequencies that fall from 1 towards 1 / 10,000."""
    frequencies = 10_000.0 ** (-np.arange(ALPHA_FREQUENCIES) / ALPHA_FREQUENCIES)
    angles = alpha.astype(jnp.float32)[:, None] * frequencies.astype(np.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
