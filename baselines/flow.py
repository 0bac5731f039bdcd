"""Rectified flow (Liu et al. 2022, arXiv 2209.03003), the baseline.

It takes many passes to a sample, where drifting takes one.

    x_t = (1 - t) x_0 + t x_1          x_0 ~ N(0, I), x_1 ~ data, t in [0, 1]
    v(x_t, t, label) ~ x_1 - x_0       training: mean squared error
    x_{t + 1/N} = x_t + v(x_t, t, label) / N      sampling: N Euler steps from x_0 ~ N(0, I)

The network is a generator of models/ as it is: x_t enters as its noise, and t in the place of the
guidance scale. `train_step` takes the place of `drifting.step.train_step`. `Flow` is called as a
one-pass generator is, so that sampling and evaluation need not know the difference.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from drifting.bank import Bank
from drifting.images import mirror, to_float
from drifting.state import TrainState, named_key, update_ema
from utils.errors import UserError

# The network embeds its guidance scale by sinusoids, the fastest of which turns by 1 per unit.
# Times in [0, 1] would hardly move them.
TIME_SCALE = 1000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """The numbers of a step."""

    batch_size: int
    n_classes: int
    class_dropout_prob: float  # of the null class in the place of a label, for guidance
    # "log-normal": the sigmoid of a standard normal (arXiv 2403.03206, Sec. 3.1); or "uniform".
    t_sampler: str
    flip: bool  # mirror images at random
    sample_shape: tuple[int, ...]  # [H, W, C]


# ---- training ----


def unchanged(tree: Any) -> Any:
    """Returns what it is given."""
    return tree


def train_step(
    state: TrainState,
    bank: Bank,
    fresh: tuple[jax.Array, jax.Array] | None,
    *,
    velocity: Callable,
    optimizer: optax.GradientTransformation,
    config: FlowConfig,
    spread: Callable = unchanged,
) -> tuple[TrainState, Bank, dict[str, jax.Array]]:
    """Takes one step. It is pure, and to be jitted with `state` and `bank` donated.

    Args:
        state: what steps change.
        bank: a bank that holds all data (drifting/bank.py), or an empty one beside `fresh`.
        fresh: the batch, (images [B, H, W, C], labels [B]); None draws one from the bank.
        velocity: (params, x_t [B, H, W, C], t [B], labels [B]) -> [B, H, W, C].
        optimizer: an optax transformation.
        config: the numbers of the step.
        spread: puts the leading axis of arrays over the devices of a mesh.
    Returns:
        The state, the bank as it was, and scalars.
    """

    def key(name: str) -> jax.Array:
        return named_key(state.seed, name, state.step)

    # ---- the batch: data x_1, noise x_0, times t, labels ----
    if fresh is None:
        fresh = draw(bank, spread(jax.random.uniform(key("data"), (config.batch_size,))))
    images, labels = spread(fresh)
    x_1 = to_float(images).reshape(-1, *config.sample_shape)  # the bank stores images as rows
    if config.flip:
        x_1 = mirror(x_1, jax.random.bernoulli(key("flip"), 0.5, (len(x_1),)))
    x_0 = spread(jax.random.normal(key("noise"), x_1.shape))
    t = sample_t(key("t"), len(x_1), config.t_sampler)
    dropped = jax.random.uniform(key("class dropout"), labels.shape) < config.class_dropout_prob
    labels = jnp.where(dropped, config.n_classes, labels)  # n_classes is the null class

    # ---- loss, gradient, update ----
    def loss_fn(params):
        return flow_loss(lambda x, t: velocity(params, x, t, labels), x_0, x_1, t)

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
        "loss": loss,
        "grad_norm": optax.tree.norm(grads),
        "update_norm": optax.tree.norm(updates),
        "param_norm": optax.tree.norm(params),
    }
    state = state.replace(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        ema=update_ema(state.ema, params, state.step + 1),
    )
    return state, bank, metrics


def flow_loss(
    velocity: Callable,
    x_0: Float[Array, " B *shape"],
    x_1: Float[Array, " B *shape"],
    t: Float[Array, " B"],
) -> Float[Array, ""]:
    """Returns the mean over samples and elements of (velocity(x_t, t) - (x_1 - x_0))^2."""
    s = per_sample(t, x_1)
    x_t = (1 - s) * x_0 + s * x_1
    return jnp.mean((velocity(x_t, t) - (x_1 - x_0)) ** 2)


def sample_t(key: jax.Array, n: int, kind: str) -> Float[Array, " n"]:
    """Returns random times in (0, 1); kind: as `FlowConfig.t_sampler`."""
    if kind == "uniform":
        return jax.random.uniform(key, (n,))
    return jax.nn.sigmoid(jax.random.normal(key, (n,)))


def draw(bank: Bank, u: Float[Array, " B"]) -> tuple[jax.Array, jax.Array]:
    """Draws samples of a bank that holds all data, with replacement.

    Each is as likely, as far as float32 goes: u has steps of 2^-23.

    u: uniform numbers in [0, 1). Returns (images [B, ...], labels [B]).
    """
    filled = bank.counters.filled
    ends = jnp.cumsum(filled)
    # Number the samples of all classes in a row: sample i is of the class whose range holds i.
    i = jnp.minimum((u * ends[-1]).astype(jnp.int32), ends[-1] - 1)
    labels = jnp.searchsorted(ends, i, side="right").astype(jnp.int32)
    starts = ends - filled
    return bank.samples[labels, i - starts[labels]], labels


def per_sample(a: Float[Array, " B"], x: Float[Array, " B *shape"]) -> Float[Array, "B ..."]:
    """Returns a [B] in the shape [B, 1, ...] that multiplies x."""
    return a.reshape(-1, *(1,) * (x.ndim - 1))


# ---- sampling ----


@dataclasses.dataclass(frozen=True)
class Flow:
    """A network of velocities, as a generator of `steps` Euler steps.

    Whatever else is asked of it is the network's (num_classes, noise_shape, init, ...).
    """

    network: nn.Module
    steps: int

    def __post_init__(self):
        if self.steps < 1:
            raise UserError(f"denoise_timesteps is {self.steps}: give at least 1")
        if self.network.noise_classes:
            raise UserError(
                f"--model.noise_classes {self.network.noise_classes}: style embeddings are noise "
                "of a one-pass generator; give 0 with --objective flow"
            )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.network, name)

    def clone(self, **changes: Any) -> "Flow":
        """Returns the flow with other fields of the network."""
        return dataclasses.replace(self, network=self.network.clone(**changes))

    def velocity(self, params: Any, x: jax.Array, t: Float[Array, " B"], labels: Int[Array, " B"]):
        """Returns v(x, t, label), in the shape of x [B, H, W, C]."""
        style = jnp.zeros((len(x), self.network.noise_coords), jnp.int32)
        return self.network.apply({"params": params}, x, labels, TIME_SCALE * t, style)

    def apply(
        self,
        variables: dict[str, Any],
        noise: jax.Array,
        labels: Int[Array, " B"],
        cfg_scale: Float[Array, " B"],
        style_indices: jax.Array,
    ) -> jax.Array:
        """Returns samples in the shape of `noise` [B, H, W, C]; called as `models.dit.DiT` is.

        cfg_scale: s in v = v(null) + s (v(label) - v(null)), which takes a second pass of the
        network in each step unless all are 1.
        """
        params = variables["params"]

        def step(i, x):
            t = jnp.full(len(x), i / self.steps)
            v = self.velocity(params, x, t, labels)
            if self.network.null_class:
                scale = per_sample(cfg_scale, x)

                def guided():
                    null_labels = jnp.full_like(labels, self.network.num_classes)
                    null = self.velocity(params, x, t, null_labels)
                    return jnp.where(scale == 1, v, null + scale * (v - null))

                v = jax.lax.cond(jnp.any(cfg_scale != 1), guided, lambda: v)
            return x + v / self.steps

        return jax.lax.fori_loop(0, self.steps, step, noise)

    def check_guidance(self, cfg_scale: Any) -> None:
        """Raises UserError where a scale [n] asks for a null class that was not trained."""
        if not self.network.null_class and (cfg_scale != 1).any():
            raise UserError(
                f"--cfg_scale {max(cfg_scale):g}: guidance of a flow takes a null class; "
                "train with --model.class_dropout_prob 0.1, or give 1"
            )


def with_steps(model: Any, steps: int) -> Any:
    """Returns the model with another number of steps; 0 leaves it as it is.

    Raises UserError for a generator that takes one pass.
    """
    if not steps:
        return model
    if not isinstance(model, Flow):
        raise UserError(
            f"--denoise_timesteps {steps}: the generator takes one pass, "
            "it was not trained with --objective flow; leave the flag out"
        )
    return dataclasses.replace(model, steps=steps)


def settings(model: Any) -> dict[str, int]:
    """Returns what tells scores of the same parameters apart: a flow's steps; nothing else."""
    if isinstance(model, Flow):
        return {"denoise_timesteps": model.steps}
    return {}
