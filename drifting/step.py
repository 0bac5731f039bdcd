"""One training step (Alg. 1, A.8): `train_step`. The rest of this file is what it calls, in that order."""

import jax
import jax.numpy as jnp
import optax

from drifting.accumulate import in_groups, mean_over_groups
from drifting.bank import Batch, draw, gather, push
from drifting.config import DriftConfig
from drifting.guidance import unconditional_weight
from drifting.loss import drift_loss
from drifting.measure import mean_distances, measure
from drifting.place import Whole
from drifting.state import TrainState, named_key, update_ema


def train_step(state: TrainState, bank, fresh, *, generate, encode, optimizer, config: DriftConfig, place=Whole()):
    """Push the newest reals into the bank, draw a batch from it, and take one step. Pure; to be jitted with `state` and `bank` donated.

    fresh: (images [S, ...], labels [S]), or None for a bank that already holds all data. The others as in `drift_step`. Returns (state, bank, metrics).
    """
    bank = bank if fresh is None else push(bank, *fresh)
    plan = in_groups(draw(bank, state.seed, state.step, config), config.groups)
    batch = gather(bank, place.groups(plan))
    state, metrics = drift_step(state, batch, generate=generate, encode=encode, optimizer=optimizer, config=config, place=place)
    return state, bank, metrics


def drift_step(state: TrainState, batch: Batch, *, generate, encode, optimizer, config: DriftConfig, place=Whole()):
    """Generate, compare in feature space, drift, update.

    batch: in groups of classes, [K, C, ...]; without accumulation K = 1.
    generate: (params, noise [M,H,W,ch], labels [M], alpha [M], style [M,coords]) -> samples [M,H,W,ch]
    encode: images [M,H,W,ch] in [-1, 1] -> {name: [M,T,D]}, the frozen feature sets (A.5); gradients flow through it
    optimizer: an optax transformation. place: where the samples are, see place.py.
    Returns (state, metrics): scalars, see `measure`.
    """
    c, n = config, config.n_neg
    key = lambda name: named_key(state.seed, name, state.step)
    coin = lambda name, count: jax.random.bernoulli(key(name), 0.5, (c.n_c, count))
    drawn = {
        "noise": jax.random.normal(key("noise"), (c.n_c, n, *batch.pos.shape[3:])),
        "style": jax.random.randint(key("style"), (c.n_c, n, c.style_shape[0]), 0, max(c.style_shape[1], 1)),
        "mirror": jnp.concatenate([coin("flip positives", c.n_pos), coin("flip unconditional", c.n_unc)], 1),
    }

    def loss_fn(params, group, pooled):
        batch, drawn = place.classes(group)  # C classes
        per_sample = lambda a: place.flat(jnp.repeat(a[:, None], n, 1))
        x = generate(params, place.flat(drawn["noise"]), per_sample(batch.labels), per_sample(batch.alpha), place.flat(drawn["style"]))  # x = f(eps), [C N, H, W, ch]
        real = to_float(jnp.concatenate([batch.pos, batch.unc], 1))
        real = mirror(drawn["mirror"], real) if c.flip else real
        phi_real = jax.lax.stop_gradient(encode(place.rows(flat(real))))
        weight_unc = jnp.broadcast_to(unconditional_weight(batch.alpha, n, max(c.n_unc, 1))[:, None], batch.unc.shape[:2])
        return feature_loss(encode(x), phi_real, batch.weight_pos, weight_unc, c, place, pooled)

    groups = place.groups((batch, in_groups(drawn, c.groups)))
    (loss, info), grads = mean_over_groups(loss_fn, state.params, groups, c.exact_scales)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates), "param_norm": optax.tree.norm(params)}
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=update_ema(state.ema, params))
    return state, {"loss": loss} | measure(info["sets"], info["distances"]) | norms | {"alpha_mean": jnp.mean(batch.alpha)}


def feature_loss(phi_gen, phi_real, weight_pos, weight_unc, c: DriftConfig, place, pooled=None):
    """Sum of the drifting losses of all feature sets (A.5). One field per location: a set [C N, T, D] is C x T problems over the samples of a class.

    Sets of the same shape are computed together, so that the program does not grow with their number.
    """
    n_c, n_pos = weight_pos.shape
    per_class = lambda f: jnp.moveaxis(f, 2, 1)  # [C, N, T, D] -> [C, T, N, D]
    gen_of = lambda k: per_class(place.split(phi_gen[k], n_c))
    real_of = lambda k: per_class(place.classes(phi_real[k].reshape(n_c, -1, *phi_real[k].shape[1:])))
    shapes = {}
    for name, f in phi_gen.items():
        shapes.setdefault(f.shape, []).append(name)

    total, infos = 0.0, []
    for (_, t, d), names in shapes.items():
        gen, real = (jnp.stack([of(k) for k in names]).reshape(len(names), n_c * t, -1, d) for of in (gen_of, real_of))
        each_t = lambda w: jnp.repeat(w, t, axis=0)

        def one_set(gen, real, pooled):
            loss, info = drift_loss(gen, real[:, :n_pos], real[:, n_pos:], weight_pos=each_t(weight_pos), weight_neg=each_t(weight_unc),
                                    temperatures=c.temperatures, field=c.field, share=place.classes, pooled=pooled)
            return jnp.mean(loss), info

        loss, info = jax.vmap(one_set)(gen, real, pooled[len(infos)] if pooled else None)
        total += jnp.sum(loss)
        infos.append(info)
    monitor = c.monitor or [k for k, f in phi_gen.items() if f.shape[1] == 1][-1]
    distances = mean_distances(place.classes(gen_of(monitor)[:, 0]), real_of(monitor)[:, 0, :n_pos], weight_pos)
    return total, {"sets": infos, "distances": distances}


def to_float(images):
    """uint8 [0, 255] -> float32 [-1, 1]; other dtypes (latents) become float32 as they are."""
    return images.astype(jnp.float32) / 127.5 - 1 if images.dtype == jnp.uint8 else images.astype(jnp.float32)


def flat(a):
    """[C, N, ...] -> [C N, ...]"""
    return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])


def mirror(where, images):
    """Flip the images of [C, N, H, W, ch] that `where` [C, N] names, left to right."""
    return jnp.where(where[:, :, None, None, None], images[:, :, :, ::-1], images)
