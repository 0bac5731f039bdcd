"""One training step (Alg. 1, A.8): `train_step`. The rest of this file is what it calls, in that order."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from drifting.accumulate import in_groups, mean_over_groups
from drifting.bank import Batch, draw, gather, push
from drifting.cache import real_features
from drifting.config import DriftConfig
from drifting.fields import make_field
from drifting.fields.learned import field_loss, update_field
from drifting.guidance import unconditional_weight
from drifting.images import flat
from drifting.layout import Whole
from drifting.loss import drift_loss
from drifting.measure import mean_distances, measure
from drifting.problems import by_width, pack, unpack
from drifting.state import TrainState, named_keys, update_ema


def train_step(
    state: TrainState,
    bank,
    fresh,
    *,
    generate,
    encode,
    optimizer,
    config: DriftConfig,
    place=Whole(),
    keep=lambda images: images,
):
    """Push the newest reals into the bank, draw a batch from it, and take one step. Pure; to be jitted with `state` and `bank` donated.

    fresh: (images [S, ...], labels [S]), or None for a bank that already holds all data. keep: what the bank keeps of images, themselves or their features (cache.py).
    The others as in `drift_step`. Returns (state, bank, metrics).
    """
    bank = bank if fresh is None else push(bank, keep(fresh[0]), fresh[1])
    plan = in_groups(draw(bank, state.seed, state.step, config), config.groups)
    batch = gather(bank, place.groups(plan), config.sample_shape)
    state, metrics = drift_step(
        state,
        batch,
        generate=generate,
        encode=encode,
        optimizer=optimizer,
        config=config,
        place=place,
    )
    return state, bank, metrics


def drift_step(
    state: TrainState,
    batch: Batch,
    *,
    generate,
    encode,
    optimizer,
    config: DriftConfig,
    place=Whole(),
):
    """Generate, compare in feature space, drift, update.

    batch: in groups of classes, [K, C, ...]; without accumulation K = 1.
    generate: (params, noise [M,H,W,ch], labels [M], alpha [M], style [M,coords]) -> samples [M,H,W,ch]
    encode: images [M,H,W,ch] in [-1, 1] -> {name: [M,T,D]}, the frozen feature sets (A.5); gradients flow through it
    optimizer: an optax transformation. place: where the samples are, see place.py.
    Returns (state, metrics): scalars, see `measure`.
    """
    c, n = config, config.n_neg
    batches = ("", " second")[: 1 + c.second_batch]
    key = named_keys(
        state.seed,
        (
            "flip unconditional",
            "flip positives",
            "field",
            *(name + batch for name in ("noise", "style") for batch in batches),
        ),
        state.step,
    )
    coin = lambda name, count: jax.random.bernoulli(key[name], 0.5, (c.n_c, count))
    drawn = {
        "mirror": jnp.concatenate(
            [coin("flip unconditional", c.n_unc), coin("flip positives", c.n_pos)], 1
        )
    }
    for second in batches:
        drawn["noise" + second] = jax.random.normal(
            key["noise" + second], (c.n_c, n, *(c.sample_shape or batch.pos.shape[3:]))
        )
        drawn["style" + second] = jax.random.randint(
            key["style" + second], (c.n_c, n, c.style_shape[0]), 0, max(c.style_shape[1], 1)
        )
    field = make_field(c.field, c.field_options, state.field)

    def loss_fn(trained, group, pooled):
        params, field_params = trained
        batch, drawn = place.classes(group)  # C classes
        per_sample = lambda a: place.flat(jnp.repeat(a[:, None], n, 1))

        def phi_gen(second=""):
            noise, style = place.flat(drawn["noise" + second]), place.flat(drawn["style" + second])
            return encode(
                generate(params, noise, per_sample(batch.labels), per_sample(batch.alpha), style)
            )  # of x = f(eps), [C N, H, W, ch]

        phi_second = jax.lax.stop_gradient(phi_gen(" second")) if c.second_batch else None
        real = place.classes(
            jax.tree.map(lambda unc, pos: jnp.concatenate([unc, pos], 1), batch.unc, batch.pos)
        )  # [C, N_unc + N_pos, ...]
        phi_real = jax.lax.stop_gradient(
            real_features(real, drawn["mirror"], encode, c.flip, place)
        )
        others = n + c.second_batch  # of a second batch, none is the sample itself
        weight_unc = jnp.broadcast_to(
            unconditional_weight(batch.alpha, others, max(c.n_unc, 1))[:, None],
            (len(batch.alpha), c.n_unc),
        )
        phi = phi_gen()
        loss, info = feature_loss(
            phi, phi_real, batch.weight_pos, weight_unc, c, place, pooled, phi_second, field
        )
        if (
            field_params
        ):  # a second problem beside the first: neither loss reaches the parameters of the other
            info["field"] = field_loss(
                field_params,
                key["field"],
                unpack(phi_real, phi),
                batch.weight_pos,
                c.temperatures,
                place.classes,
            )
            loss += info["field"]
        return loss, info

    groups = place.groups((batch, in_groups(drawn, c.groups)))
    trained = (state.params, state.field and state.field["params"])
    (loss, info), (grads, field_grads) = mean_over_groups(loss_fn, trained, groups, c.exact_scales)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = {
        "grad_norm": optax.tree.norm(grads),
        "update_norm": optax.tree.norm(updates),
        "param_norm": optax.tree.norm(params),
    }
    if state.field:
        state = state.replace(field=update_field(state.field, field_grads, c.field_lr))
        loss, norms = (
            loss - info["field"],
            norms | {"field_loss": info["field"], "field_grad_norm": optax.tree.norm(field_grads)},
        )
    state = state.replace(
        step=state.step + 1, params=params, opt_state=opt_state, ema=update_ema(state.ema, params)
    )
    return state, {"loss": loss} | measure(info["sets"], info["distances"]) | norms | {
        "alpha_mean": jnp.mean(batch.alpha)
    }


def feature_loss(
    phi_gen,
    phi_real,
    weight_pos,
    weight_unc,
    c: DriftConfig,
    place,
    pooled=None,
    phi_second=None,
    field=None,
):
    """Weighted sum of the drifting losses of all feature sets (A.5). One field per location: a set [C N, T, D] is C x T problems over the samples of a class.

    phi_real: packed by width (sets.py), unconditional samples before positives. phi_second: of a second generated batch, which then repels. field: in the place of c.field.
    """
    n_c, n_unc = weight_unc.shape
    per_class = lambda f: jnp.moveaxis(f, 2, 1)  # [C, N, T, D] -> [C, T, N, D]
    of_gen = lambda f: per_class(place.split(f, n_c))
    of_real = lambda f: per_class(place.classes(f.reshape(n_c, -1, *f.shape[1:])))
    packed, packed_second = pack(phi_gen), phi_second and pack(phi_second)

    total, infos = 0.0, []
    for width, names in by_width(phi_gen).items():
        t = [phi_gen[k].shape[1] for k in names]
        gen, real = flat(of_gen(packed[width])), flat(of_real(phi_real[width]))  # [C sum(T), N, D]
        second = packed_second and flat(of_gen(packed_second[width]))
        of_each = lambda values: np.tile(
            np.repeat(values, t), n_c
        )  # values of the sets -> [C sum(T)]
        weights = {
            "weight_pos": jnp.repeat(weight_pos, sum(t), 0),
            "weight_neg": jnp.repeat(weight_unc, sum(t), 0),
        }
        loss, info = drift_loss(
            gen,
            real[:, n_unc:],
            real[:, :n_unc],
            **weights,
            temperatures=c.temperatures,
            field=field or c.field,
            guidance=c.guidance,
            share=place.classes,
            second=second,
            set_of=of_each(np.arange(len(t))),
            pooled=pooled[len(infos)] if pooled else None,
        )
        total += jnp.sum(
            loss * of_each([c.set_weight(k) for k in names] / (n_c * np.array(t)))
        )  # of each set the mean over its problems
        infos.append(info)
    monitor = c.monitor or [k for k, f in phi_gen.items() if f.shape[1] == 1][-1]
    distances = mean_distances(
        place.classes(of_gen(phi_gen[monitor])[:, 0]),
        of_real(unpack(phi_real, phi_gen)[monitor])[:, 0, n_unc:],
        weight_pos,
    )
    return total, {"sets": infos, "distances": distances}
