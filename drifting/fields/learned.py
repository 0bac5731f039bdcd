"""The learned field: set attention trained as a leave-one-out denoiser of real features (arXiv 2603.09936 for what it then computes).

    S(x, Y) = sum_y softmax_y(a(x, y)) (g(y) - g(x))        V = S(x, P) - S(x, Q), antisymmetric by construction
    a(x, y) = MLP([g(x), g(y), g(y) - g(x), r, log tau]) - e^(c + k log tau) r,     r = ||g(y) - g(x)|| / sqrt(D);    g(y) = y + MLP(y), or y without projection

The logit's last term starts it as a Laplace smoother. Features are taken in units of S_j, and the temperature tau is a level of noise in them: for y_i of a real set and
x = y_i + tau * normal, S(x, Y without y_i) is to be y_i - x. Then x + S is the posterior mean of y given x, and V the difference of two scores smoothed at that level, times tau^2.
Nothing but this loss reaches the parameters: the drifting loss stops its gradient at V. Sets of the same D share one S, so its size does not grow with the locations.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from drifting.distances import MASKED, distance, log_weight, perplexity
from drifting.state import update_ema

DENOISED = 32  # samples of a set that a step trains on; each is held against the whole set, so all would cost P^2


def init_field(key, dims, width, projection):
    """Parameters {str(D): S} for features of D = dims numbers. width: of the hidden layers. projection: g is an MLP, or the identity."""

    def dense(key, n_in, n_out, gain=1.0):
        return {
            "w": gain * jax.random.normal(key, (n_in, n_out)) / jnp.sqrt(n_in),
            "b": jnp.zeros(n_out),
        }

    def init_one(key, d):
        k = jax.random.split(key, 5)
        pair = {
            "x": dense(k[0], d, width),
            "y": dense(k[1], d, width),
            "r": jnp.zeros(width),
            "tau": jnp.zeros(width),
        }
        g = {"in": dense(k[2], d, width), "out": dense(k[3], width, d, 0.1)} if projection else {}
        return {
            "g": g,
            "pair": pair,
            "out": dense(k[4], width, 1, 0.1)["w"][:, 0],
            "slope": jnp.array([jnp.log(10.0), -0.5]),
        }

    return {str(d): init_one(jax.random.fold_in(key, d), d) for d in sorted(set(dims))}


def pull(
    params,
    x: Float[Array, "N D"],
    y: Float[Array, "M D"],
    weight: Float[Array, "M"],
    tau,
    self_neg: int,
):
    """S(x, Y) [N, D] and the softmax [N, M]; x and y in units of S_j. weight: of each y. self_neg: N when y[:N] are x, or what x was made of: left out of the set."""
    dense = lambda p, a: a @ p["w"] + p["b"]
    g = lambda a: (
        a + dense(params["g"]["out"], jax.nn.relu(dense(params["g"]["in"], a)))
        if params["g"]
        else a
    )
    g_x, g_y, pair = g(x), g(y), params["pair"]
    r = distance(g_x, g_y) / jnp.sqrt(x.shape[1])  # [N, M]
    # The first layer of the MLP on [g(x), g(y), g(y) - g(x)] is a part of x and a part of y; the sum over the hidden units is written out so that [N, M, width] is not stored.
    hidden = jax.nn.relu(
        dense(pair["x"], g_x)[:, None]
        + dense(pair["y"], g_y)
        + r[:, :, None] * pair["r"]
        + jnp.log(tau) * pair["tau"]
    )
    logit = (
        jnp.sum(hidden * params["out"], -1)
        - jnp.exp(params["slope"][0] + params["slope"][1] * jnp.log(tau)) * r
    )
    itself = jnp.eye(*r.shape, dtype=bool) & (jnp.arange(y.shape[0]) < self_neg)
    w = jax.nn.softmax(jnp.where(itself, MASKED, logit + log_weight(weight)), axis=1)
    return jnp.matmul(w, g_y, precision=jax.lax.Precision.HIGHEST) - g_x, w


def learned_field(
    x,
    pos,
    neg,
    weight_pos,
    weight_neg,
    tau,
    self_neg,
    unit=1.0,
    *,
    params,
    attraction=1.0,
    repulsion=1.0,
):
    """V = S(x, P) - S(x, Q). params: of `init_field`, for this D among others."""
    scale = unit / jnp.sqrt(x.shape[1])  # S_j
    of = functools.partial(pull, params[str(x.shape[1])], x / scale)
    (v_pos, share), (v_neg, _) = (
        of(pos / scale, weight_pos, tau, 0),
        of(neg / scale, weight_neg, tau, self_neg),
    )
    return scale * (attraction * v_pos - repulsion * v_neg), perplexity(share)


def denoising_loss(
    params, noise: Float[Array, "B K D"], y: Float[Array, "B P D"], weight: Float[Array, "B P"], tau
):
    """Mean of |S(x, Y without y_i) - (y_i - x)|^2 / D over the first K samples of B sets, x = y_i + tau * noise; y in units of S_j. Samples of weight 0 are absent, and one without others in its set is not asked for."""
    k = noise.shape[1]
    others = jnp.sum(weight, 1, keepdims=True) - weight[:, :k] > 0
    of, move = weight[:, :k] * others, -tau * noise  # y_i - x
    s = jax.vmap(lambda x, y, w: pull(params, x, y, w, tau, k)[0])(y[:, :k] - move, y, weight)
    return jnp.sum(jnp.mean((s - move) ** 2, -1) * of) / jnp.maximum(jnp.sum(of), 1)


def field_loss(
    params,
    key,
    phi: dict[str, Float[Array, "CR T D"]],
    weight: Float[Array, "C P"],
    temperatures,
    share=lambda y: y,
):
    """Mean denoising loss over feature sets and temperatures, at one location of every set and of at most DENOISED of its samples, in a row from one on, both drawn at random.

    phi: features of R >= P reals of each of C classes, of which the last P are the sets. share: as in `drift_loss`.
    """
    (n_c, p), groups = weight.shape, {}
    first = jax.random.randint(jax.random.fold_in(key, len(phi)), (), 0, p)
    turned = lambda a: jnp.roll(a, -first, 1)  # so that the samples from there on are the first
    pairs = weight[:, :, None] * weight[:, None, :] * (1 - jnp.eye(p))
    for i, (_, y) in enumerate(sorted(phi.items())):
        location = jax.random.randint(jax.random.fold_in(key, i), (), 0, y.shape[1])
        y = share(jax.lax.stop_gradient(y)[:, location].reshape(n_c, -1, y.shape[2]))[
            :, -p:
        ]  # [C, P, D]
        scale = (
            jnp.sum(distance(y, y, p) * pairs)
            / jnp.maximum(jnp.sum(pairs), 1)
            / jnp.sqrt(y.shape[2])
        )
        groups.setdefault(y.shape[2], []).append(turned(y / jnp.maximum(scale, 1e-3)))

    losses = []
    for d, sets in groups.items():
        noise = jax.random.normal(
            jax.random.fold_in(key, len(phi) + d), (len(sets), n_c, min(p, DENOISED), d)
        )
        of_set = jax.vmap(functools.partial(denoising_loss, params[str(d)]), (0, 0, None, None))
        of_tau = jax.vmap(of_set, (None, None, None, 0))
        losses.append(
            of_tau(noise, jnp.stack(sets), turned(weight), jnp.asarray(temperatures)).reshape(-1)
        )
    return jnp.mean(jnp.concatenate(losses))


def init_field_state(key, dims, width, projection, ema_decay):
    """{"params", "opt_state", "ema": {decay: params}} before the first step; the average is what the drift is computed with."""
    params = init_field(key, dims, width, projection)
    return {
        "params": params,
        "opt_state": optax.adam(0.0).init(params),
        "ema": {str(ema_decay): jax.tree.map(jnp.copy, params)},
    }


def update_field(state, grads, learning_rate):
    """The state after one step of Adam."""
    updates, opt_state = optax.adam(learning_rate).update(grads, state["opt_state"])
    params = optax.apply_updates(state["params"], updates)
    return {"params": params, "opt_state": opt_state, "ema": update_ema(state["ema"], params)}
