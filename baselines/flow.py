"""Rectified flow (Liu et al. 2022, arXiv 2209.03003), the baseline: many passes to a sample, where drifting takes one.

    x_t = (1 - t) x_0 + t x_1    x_0 ~ N(0, I), x_1 ~ data, t in [0, 1]
    v(x_t, t, label) ~ x_1 - x_0                                              training: mean squared error
    x_{t + 1/N} = x_t + v(x_t, t, label) / N,    x_0 ~ N(0, I)                sampling: N Euler steps

The network is a generator of models/ as it is: x_t enters as its noise, and t in the place of the guidance scale. `train_step` takes the place of
`drifting.step.train_step`; `Flow` is called as a one-pass generator is, so that sampling and evaluation need not know.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from drifting.images import mirror, to_float
from drifting.state import TrainState, named_key, update_ema
from utils.errors import UserError

TIME_SCALE = (
    1000.0  # the sinusoids of the conditioning turn by 1 at most per unit of what enters them
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """The numbers of a step."""

    batch_size: int
    n_classes: int
    class_dropout_prob: (
        float  # with this probability a label is replaced by the null class, for guidance
    )
    t_sampler: str  # log-normal: sigmoid of a standard normal (arXiv 2403.03206, Sec. 3.1); uniform
    flip: bool  # mirror images at random
    sample_shape: tuple[int, ...]


# ---------------------------------------------------------------- training


def train_step(
    state: TrainState,
    bank,
    fresh,
    *,
    velocity,
    optimizer,
    config: FlowConfig,
    place=lambda tree: tree,
):
    """One step on the batch `fresh` (images [B, ...], labels [B]), or, if that is None, on draws from a bank that holds all data.

    velocity: (params, x_t [B, ...], t [B], labels [B]) -> [B, ...]. optimizer: an optax transformation. place: puts the leading axis over the devices of a mesh.
    Pure; to be jitted with `state` and `bank` donated. Returns (state, bank, metrics).
    """
    c = config
    key = lambda name: named_key(state.seed, name, state.step)
    images, labels = place(
        fresh
        if fresh is not None
        else draw(bank, place(jax.random.uniform(key("data"), (c.batch_size,))))
    )
    x_1 = to_float(images).reshape(-1, *c.sample_shape)  # the bank keeps rows
    if c.flip:
        x_1 = mirror(x_1, jax.random.bernoulli(key("flip"), 0.5, (len(x_1),)))
    x_0 = place(jax.random.normal(key("noise"), x_1.shape))
    t = sample_t(key("t"), len(x_1), c.t_sampler)
    labels = jnp.where(
        jax.random.uniform(key("class dropout"), labels.shape) < c.class_dropout_prob,
        c.n_classes,
        labels,
    )

    loss_fn = lambda params: flow_loss(lambda x, t: velocity(params, x, t, labels), x_0, x_1, t)
    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
        "loss": loss,
        "grad_norm": optax.tree.norm(grads),
        "update_norm": optax.tree.norm(updates),
        "param_norm": optax.tree.norm(params),
    }
    return (
        state.replace(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema=update_ema(state.ema, params),
        ),
        bank,
        metrics,
    )


def flow_loss(
    velocity, x_0: Float[Array, " B *shape"], x_1: Float[Array, " B *shape"], t: Float[Array, " B"]
):
    """Mean over samples and their elements of (velocity(x_t, t) - (x_1 - x_0))^2."""
    s = per_sample(t, x_1)
    return jnp.mean((velocity((1 - s) * x_0 + s * x_1, t) - (x_1 - x_0)) ** 2)


def sample_t(key, n: int, kind: str) -> Float[Array, " n"]:
    """Times in (0, 1)."""
    return (
        jax.random.uniform(key, (n,))
        if kind == "uniform"
        else jax.nn.sigmoid(jax.random.normal(key, (n,)))
    )


def draw(bank, u: Float[Array, " B"]):
    """Samples of a bank (drifting/bank.py) that holds all data, with replacement, each as likely: (images [B, ...], labels [B]), from u in [0, 1)."""
    ends = jnp.cumsum(
        bank.counters.filled
    )  # the i-th of all samples lies in the class whose range holds i
    i = jnp.minimum((u * ends[-1]).astype(jnp.int32), ends[-1] - 1)
    labels = jnp.searchsorted(ends, i, side="right").astype(jnp.int32)
    return bank.samples[labels, i - (ends - bank.counters.filled)[labels]], labels


def per_sample(a: Float[Array, " B"], x: Float[Array, " B *shape"]):
    """a [B] in the shape [B, 1, ...] that multiplies x."""
    return a.reshape(-1, *(1,) * (x.ndim - 1))


# ---------------------------------------------------------------- sampling


@dataclasses.dataclass(frozen=True)
class Flow:
    """The velocity `network` as a generator of `steps` Euler steps; whatever else is asked of it is the network's (num_classes, noise_shape, init, ...)."""

    network: nn.Module
    steps: int

    def __post_init__(self):
        if self.steps < 1:
            raise UserError(f"denoise_timesteps is {self.steps}: give at least 1")
        if self.network.noise_classes:
            raise UserError(
                f"--model.noise_classes {self.network.noise_classes}: style embeddings are noise of a one-pass generator; give 0 with --objective flow"
            )

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.network, name)

    def clone(self, **changes):
        """With other fields of the network."""
        return dataclasses.replace(self, network=self.network.clone(**changes))

    def velocity(self, params, x, t: Float[Array, " B"], labels: Int[Array, " B"]):
        """v(x, t, label), in the shape of x."""
        style = jnp.zeros((len(x), self.network.noise_coords), jnp.int32)
        return self.network.apply({"params": params}, x, labels, TIME_SCALE * t, style)

    def apply(self, variables, noise, labels, cfg_scale, style_indices):
        """Samples in the shape of `noise`, as `models.dit.DiT` is called. cfg_scale: v = v(null) + cfg_scale (v(label) - v(null)), a second pass per step where it is not 1."""

        def step(i, x):
            t = jnp.full(len(x), i / self.steps)
            v = self.velocity(variables["params"], x, t, labels)
            if self.network.null_class:
                scale = per_sample(cfg_scale, x)

                def guided():
                    null = self.velocity(
                        variables["params"], x, t, jnp.full_like(labels, self.network.num_classes)
                    )
                    return jnp.where(scale == 1, v, null + scale * (v - null))

                v = jax.lax.cond(jnp.any(cfg_scale != 1), guided, lambda: v)
            return x + v / self.steps

        return jax.lax.fori_loop(0, self.steps, step, noise)

    def check_guidance(self, cfg_scale):
        """Raises UserError where a scale [n] asks for a null class that the network was not trained with."""
        if not self.network.null_class and (cfg_scale != 1).any():
            raise UserError(
                f"--cfg_scale {max(cfg_scale):g}: guidance of a flow takes a null class; train with --model.class_dropout_prob 0.1, or give 1"
            )


def with_steps(model, steps: int):
    """The model with another number of steps; 0 = as it is. Raises UserError for a generator that takes one pass."""
    if not steps:
        return model
    if not isinstance(model, Flow):
        raise UserError(
            f"--denoise_timesteps {steps}: the generator takes one pass, it was not trained with --objective flow; leave the flag out"
        )
    return dataclasses.replace(model, steps=steps)


def settings(model) -> dict:
    """What tells scores of the same parameters apart: the steps of a flow; nothing for one pass."""
    return {"denoise_timesteps": model.steps} if isinstance(model, Flow) else {}
