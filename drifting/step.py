"""One training step (Alg. 1, A.8): `train_step`. The rest of this file is what it calls, in that order."""

import jax
import jax.numpy as jnp
import optax

from drifting.bank import Batch, draw, gather, push
from drifting.config import DriftConfig
from drifting.guidance import unconditional_weight
from drifting.loss import drift_loss
from drifting.measure import measure
from drifting.state import TrainState, named_key, update_ema


def train_step(state: TrainState, bank, fresh, *, generate, encode, optimizer, config: DriftConfig, place=lambda tree: tree):
    """Push the newest reals into the bank, draw a batch from it, and take one step. Pure; to be jitted with `state` and `bank` donated.

    fresh: (images [S, ...], labels [S]), or None for a bank that already holds all data. The others as in `drift_step`. Returns (state, bank, metrics).
    """
    bank = bank if fresh is None else push(bank, *fresh)
    batch = gather(bank, place(draw(bank, state.seed, state.step, config)))
    state, metrics = drift_step(state, batch, generate=generate, encode=encode, optimizer=optimizer, config=config, place=place)
    return state, bank, metrics


def drift_step(state: TrainState, batch: Batch, *, generate, encode, optimizer, config: DriftConfig, place=lambda tree: tree):
    """Generate, compare in feature space, drift, update.

    generate: (params, noise [M,H,W,ch], labels [M], alpha [M], style [M,coords]) -> samples [M,H,W,ch]
    encode: images [M,H,W,ch] in [-1, 1] -> {name: [M,T,D]}, the frozen feature sets (A.5); gradients flow through it
    optimizer: an optax transformation. place: puts the leading axis, the classes, over the devices of a mesh (utils/sharding.py).
    Returns (state, metrics): scalars, see `measure`.
    """
    c, n_c, n = config, config.n_c, config.n_neg
    key = lambda name: named_key(state.seed, name, state.step)
    batch = place(batch)
    pos, unc = to_float(batch.pos), to_float(batch.unc)
    if c.flip:
        pos, unc = mirror(key("flip positives"), pos), mirror(key("flip unconditional"), unc)
    noise = place(jax.random.normal(key("noise"), (n_c, n, *pos.shape[2:])))
    style = place(jax.random.randint(key("style"), (n_c, n, c.style_shape[0]), 0, max(c.style_shape[1], 1)))
    per_sample = lambda a: jnp.repeat(a, n)
    weight_unc = jnp.broadcast_to(unconditional_weight(batch.alpha, n, max(c.n_unc, 1))[:, None], (n_c, c.n_unc))
    phi_real = jax.lax.stop_gradient(encode(flat(jnp.concatenate([pos, unc], 1))))

    def loss_fn(params):
        x = generate(params, flat(noise), per_sample(batch.labels), per_sample(batch.alpha), flat(style))  # x = f(eps), [C N, H, W, ch]
        return feature_loss(encode(x), phi_real, batch.weight_pos, weight_unc, c)

    (loss, info), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = {"grad_norm": optax.global_norm(grads), "update_norm": optax.global_norm(updates), "param_norm": optax.global_norm(params)}
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=update_ema(state.ema, params))
    return state, {"loss": loss} | info | norms | {"alpha_mean": jnp.mean(batch.alpha)}


def feature_loss(phi_gen, phi_real, weight_pos, weight_unc, c: DriftConfig):
    """Sum of the drifting losses of all feature sets (A.5). One field per location: a set [C N, T, D] is C x T problems over the samples of a class.

    Sets of the same shape are computed together, so that the program does not grow with their number.
    """
    n_c, n_pos = weight_pos.shape
    per_class = lambda f: jnp.moveaxis(f.reshape(n_c, -1, *f.shape[1:]), 2, 1)  # [C, T, samples, D]
    shapes = {}
    for name, f in phi_gen.items():
        shapes.setdefault(f.shape, []).append(name)

    total, infos = 0.0, []
    for (_, t, d), names in shapes.items():
        gen, real = (jnp.stack([per_class(phi[k]) for k in names]).reshape(len(names), n_c * t, -1, d) for phi in (phi_gen, phi_real))
        each_t = lambda w: jnp.repeat(w, t, axis=0)

        def one_set(gen, real):
            loss, info = drift_loss(gen, real[:, :n_pos], real[:, n_pos:], weight_pos=each_t(weight_pos), weight_neg=each_t(weight_unc),
                                    temperatures=c.temperatures, field=c.field)
            return jnp.mean(loss), info

        loss, info = jax.vmap(one_set)(gen, real)
        total += jnp.sum(loss)
        infos.append(info)
    info = jax.tree.map(lambda *a: jnp.mean(jnp.concatenate(a)), *infos)  # mean over the sets
    monitor = c.monitor or [k for k, f in phi_gen.items() if f.shape[1] == 1][-1]
    return total, measure(info, per_class(phi_gen[monitor])[:, 0], per_class(phi_real[monitor])[:, 0, :n_pos], weight_pos)


def to_float(images):
    """uint8 [0, 255] -> float32 [-1, 1]; other dtypes (latents) become float32 as they are."""
    return images.astype(jnp.float32) / 127.5 - 1 if images.dtype == jnp.uint8 else images.astype(jnp.float32)


def flat(a):
    """[C, N, ...] -> [C N, ...]"""
    return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])


def mirror(key, images):
    """Flip each image of [C, N, H, W, ch] left to right with probability 1/2."""
    flip = jax.random.bernoulli(key, 0.5, images.shape[:2])
    return jnp.where(flip[:, :, None, None, None], images[:, :, :, ::-1], images)
