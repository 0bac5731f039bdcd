"""The learned field: set attention, trained to denoise real features (arXiv 2603.09936).

    S(x, Y) = sum_y softmax_y(a(x, y)) (g(y) - g(x))
    V       = S(x, P) - S(x, Q), which is antisymmetric by construction
    a(x, y) = MLP([g(x), g(y), g(y) - g(x), r, log tau]) - e^(c + k log tau) r
    r       = ||g(y) - g(x)|| / sqrt(D)
    g(y)    = y + MLP(y), or y where there is no projection

The last term of the logit starts it as a Laplace smoother. Features are taken in units of S_j, and
the temperature tau is a level of noise in them: for y_i of a real set and x = y_i + tau * normal,
S(x, Y without y_i) is trained to be y_i - x. Then x + S is the posterior mean of y given x, and V
is the difference of two scores smoothed at that level, times tau^2.

Nothing but this denoising loss reaches the parameters: the drifting loss stops its gradient at V.
Feature sets of the same width D have one S in common, so its size does not grow with the locations.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jaxtyping import Array, Float

from drifting.distances import MASKED, distance, log_weight, perplexity
from drifting.layout import ONE_DEVICE, Layout
from drifting.memory import Memory, Recalled, Seen
from drifting.problems import by_width
from drifting.state import update_ema

# Samples of a set that one step trains on. Each is compared with the whole set, so training on all
# of them would cost the square of their number.
DENOISED = 32


# ---------------------------------------------------------------- the network S


def init_field(key: jax.Array, dims, width: int, projection: bool) -> dict[str, Any]:
    """Returns parameters {str(D): S} before training.

    Args:
        key: a random key.
        dims: the widths D of the feature sets; repeated ones count once.
        width: of the hidden layers.
        projection: whether g is an MLP, or the identity.
    """

    def dense(key, n_in, n_out, gain=1.0):
        w = gain * jax.random.normal(key, (n_in, n_out)) / jnp.sqrt(n_in)
        return {"w": w, "b": jnp.zeros(n_out)}

    def init_one(key, d):
        key_x, key_y, key_in, key_g_out, key_out = jax.random.split(key, 5)
        g = {}
        if projection:
            g = {"in": dense(key_in, d, width), "out": dense(key_g_out, width, d, 0.1)}
        pair = {
            "x": dense(key_x, d, width),
            "y": dense(key_y, d, width),
            "r": jnp.zeros(width),
            "tau": jnp.zeros(width),
        }
        return {
            "g": g,
            "pair": pair,
            "out": dense(key_out, width, 1, 0.1)["w"][:, 0],
            "slope": jnp.array([jnp.log(10.0), -0.5]),  # c and k
        }

    return {str(d): init_one(jax.random.fold_in(key, d), d) for d in sorted(set(dims))}


def _dense(layer: dict[str, jax.Array], a: jax.Array) -> jax.Array:
    return a @ layer["w"] + layer["b"]


def _project(layers: dict[str, Any], y: jax.Array) -> jax.Array:
    """Returns g(y)."""
    if not layers:
        return y
    return y + _dense(layers["out"], jax.nn.relu(_dense(layers["in"], y)))


def pull(
    params: dict[str, Any],
    x: Float[Array, "N D"],
    y: Float[Array, "M D"],
    weight: Float[Array, " M"],
    tau,
    self_neg: int,
) -> tuple[Float[Array, "N D"], Float[Array, "N M"]]:
    """Returns S(x, Y) and the softmax over Y.

    Args:
        params: of `init_field`, for this D.
        x, y: features in units of S_j.
        weight: of each y, >= 0.
        tau: the temperature, which is the level of noise.
        self_neg: N when y[:N] are x, or are what x was made of: a sample is left out of its own
            set. Otherwise 0.
    """
    g_x, g_y = _project(params["g"], x), _project(params["g"], y)
    pair, (c, k) = params["pair"], params["slope"]
    r = distance(g_x, g_y) / jnp.sqrt(x.shape[1])  # [N, M]

    # The first layer of the MLP on [g(x), g(y), g(y) - g(x)] is a part of x plus a part of y. The
    # sum over the hidden units is written out, so that [N, M, width] is never stored.
    of_x = _dense(pair["x"], g_x)[:, None]
    of_y = _dense(pair["y"], g_y)
    hidden = jax.nn.relu(of_x + of_y + r[:, :, None] * pair["r"] + jnp.log(tau) * pair["tau"])
    logit = jnp.sum(hidden * params["out"], -1) - jnp.exp(c + k * jnp.log(tau)) * r

    is_itself = jnp.eye(*r.shape, dtype=bool) & (jnp.arange(y.shape[0]) < self_neg)
    w = jax.nn.softmax(jnp.where(is_itself, MASKED, logit + log_weight(weight)), axis=1)
    return jnp.matmul(w, g_y, precision=jax.lax.Precision.HIGHEST) - g_x, w


def learned_field(
    x: Float[Array, "N D"],
    pos: Float[Array, "P D"],
    neg: Float[Array, "M D"],
    weight_pos: Float[Array, " P"],
    weight_neg: Float[Array, " M"],
    tau,
    self_neg: int,
    unit=1.0,
    *,
    params: dict[str, Any],
    attraction: float = 1.0,
    repulsion: float = 1.0,
) -> tuple[Float[Array, "N D"], Float[Array, " N"]]:
    """V = S(x, P) - S(x, Q). The arguments are explained in `drifting.fields`.

    Args:
        params: of `init_field`; those of this D are used.
    """
    of_width = params[str(x.shape[1])]
    scale = unit / jnp.sqrt(x.shape[1])  # S_j
    v_pos, w_pos = pull(of_width, x / scale, pos / scale, weight_pos, tau, 0)
    v_neg, _ = pull(of_width, x / scale, neg / scale, weight_neg, tau, self_neg)
    return scale * (attraction * v_pos - repulsion * v_neg), perplexity(w_pos)


# ---------------------------------------------------------------- its training


def denoising_loss(
    params: dict[str, Any],
    noise: Float[Array, "B K D"],
    y: Float[Array, "B P D"],
    weight: Float[Array, "B P"],
    tau,
) -> Float[Array, ""]:
    """Returns the mean of |S(x, Y without y_i) - (y_i - x)|^2 / D, with x = y_i + tau * noise.

    The mean is over the first K samples of B sets. A sample of weight 0 is absent, and a sample
    that is alone in its set is not asked for.

    Args:
        params: of `init_field`, for this D.
        noise: standard normal numbers.
        y: the sets, in units of S_j.
        weight: of each y, 0 or 1.
        tau: the temperature.
    """
    k = noise.shape[1]
    has_others = jnp.sum(weight, 1, keepdims=True) - weight[:, :k] > 0
    counted = weight[:, :k] * has_others
    move = -tau * noise  # y_i - x

    def predict(x, y, weight):
        return pull(params, x, y, weight, tau, k)[0]

    predicted = jax.vmap(predict)(y[:, :k] - move, y, weight)
    error = jnp.mean((predicted - move) ** 2, -1)
    return jnp.sum(error * counted) / jnp.maximum(jnp.sum(counted), 1)


def field_loss(
    params: dict[str, Any],
    key: jax.Array,
    phi: dict[str, Float[Array, "CR T D"]],
    weight: Float[Array, "C P"],
    temperatures,
    layout: Layout = ONE_DEVICE,
) -> Float[Array, ""]:
    """Returns the mean denoising loss over feature sets and temperatures.

    Of every set one location is drawn at random, and of its samples at most DENOISED in a row,
    from a random one on.

    Args:
        params: of `init_field`.
        key: the random key of this step.
        phi: features of R >= P reals of each of C classes, of which the last P are the sets.
        weight: of those P reals, 0 or 1.
        temperatures: the levels of noise.
        layout: where the samples are, see `drifting.layout`.
    """
    n_c, p = weight.shape
    first = jax.random.randint(jax.random.fold_in(key, len(phi)), (), 0, p)

    def from_first_on(samples):
        """Turns the samples [C, P, ...] round so that the first of those in a row comes first."""
        return jnp.roll(samples, -first, 1)

    pairs = weight[:, :, None] * weight[:, None, :] * (1 - jnp.eye(p))
    sets_of_width = {}
    for i, (_, features) in enumerate(sorted(phi.items())):
        location = jax.random.randint(jax.random.fold_in(key, i), (), 0, features.shape[1])
        y = jax.lax.stop_gradient(features)[:, location]  # [C R, D]
        y = layout.classes(rearrange(y, "(c r) d -> c r d", c=n_c))[:, -p:]  # [C, P, D]
        total = jnp.sum(distance(y, y, p) * pairs)
        scale = total / jnp.maximum(jnp.sum(pairs), 1) / jnp.sqrt(y.shape[2])  # S_j
        y = from_first_on(y / jnp.maximum(scale, 1e-3))
        sets_of_width.setdefault(y.shape[2], []).append(y)

    losses = []
    for d, sets in sets_of_width.items():
        key_noise = jax.random.fold_in(key, len(phi) + d)
        noise = jax.random.normal(key_noise, (len(sets), n_c, min(p, DENOISED), d))
        of_sets = jax.vmap(denoising_loss, (None, 0, 0, None, None))
        of_temperatures = jax.vmap(of_sets, (None, None, None, None, 0))
        stacked, taus = jnp.stack(sets), jnp.asarray(temperatures)
        loss = of_temperatures(params[str(d)], noise, stacked, from_first_on(weight), taus)
        losses.append(loss.reshape(-1))
    return jnp.mean(jnp.concatenate(losses))


def init_field_state(key: jax.Array, dims, width: int, projection: bool, ema_decay: float) -> dict:
    """Returns {"params", "opt_state", "ema": {decay: params}} before the first step.

    The drift is computed with the average. The other arguments are those of `init_field`.
    """
    params = init_field(key, dims, width, projection)
    return {
        "params": params,
        "opt_state": optax.adam(0.0).init(params),
        "ema": {str(ema_decay): jax.tree.map(jnp.copy, params)},
    }


def update_field(state: dict, grads: Any, learning_rate: float) -> dict:
    """Returns the state of a learned field after one step of Adam."""
    updates, opt_state = optax.adam(learning_rate).update(grads, state["opt_state"])
    params = optax.apply_updates(state["params"], updates)
    return {"params": params, "opt_state": opt_state, "ema": update_ema(state["ema"], params)}


@dataclasses.dataclass(frozen=True)
class Network(Memory):
    """The parameters of S, their optimiser and their average."""

    field_width: int  # of the hidden layers
    field_projection: bool  # whether g is an MLP, or the identity
    field_lr: float  # of Adam
    field_ema: float  # the decay of the average that makes the drift

    def init(self, key: jax.Array, sets: dict[str, Any], n_classes: int) -> dict[str, Any]:
        dims = [features.shape[2] for features in sets.values()]
        return init_field_state(key, dims, self.field_width, self.field_projection, self.field_ema)

    def look(
        self, state: dict[str, Any], key: jax.Array, seen: Seen
    ) -> tuple[dict[str, Any], dict[str, Recalled]]:
        """Observes the denoising loss and its gradient. The drift is that of the average."""
        samples = (seen.real, seen.weight_pos, seen.temperatures, seen.layout)
        loss, gradient = jax.value_and_grad(field_loss)(state["params"], key, *samples)
        average = next(iter(state["ema"].values()))
        recalled = {width: Recalled(shared={"params": average}) for width in by_width(seen.gen)}
        return {"loss": loss, "gradient": gradient}, recalled

    def update(
        self, state: dict[str, Any], observed: dict[str, Any], stats: Sequence[Any] = ()
    ) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        metrics = {
            "field_loss": observed["loss"],
            "field_grad_norm": optax.tree.norm(observed["gradient"]),
        }
        return update_field(state, observed["gradient"], self.field_lr), metrics

    def describe(self, state: dict[str, Any]) -> str:
        count = sum(a.size for a in jax.tree.leaves(state["params"]))
        return f"{count:,} parameters of its own"
