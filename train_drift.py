"""Trains a one-step image generator by drifting; the step that matters is `drifting.step.train_step`.

    python train_drift.py --dataset_name digits            the run goes to runs/digits; the same command resumes it
    python train_drift.py --dataset_name digits --dry_run  what would be run, and what it takes
"""

import copy
import dataclasses
import functools
import inspect
import logging
import pathlib

import jax
import numpy as np
import optax

import data
import eval_fid
from baselines import flow
from data import pipeline
from configs.default import DISTRIBUTED
from drifting import bank as banks
from drifting.accumulate import in_groups
from drifting.cache import remember
from drifting.config import DriftConfig
from drifting.field import FIELDS
from drifting.learned import init_field_state
from drifting.state import TrainState, init_state, named_key
from drifting.step import drift_step, train_step
from models.build import build_generator, describe
from models.dit import count_parameters, init_params
from models.encoders import join_where, load_encoder, only_used, options_of, set_weights, split_where, takes_pixels
from models.latents import latent_dataset, load_latent_space
from models.sampling import generate
from models.weights import load_generator
from utils import config as config_lib, distributed, loop, processes, sharding
from utils.checkpoint import Checkpoints
from utils.errors import UserError
from utils.figures import save_curves, save_grid
from utils.logging import read_metrics, setup_logging
from utils.memory import keep_freed_memory
from utils.scores import append_row, read_rows, scores

log = logging.getLogger("train")


# ---------------------------------------------------------------- config -> parts

@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of. dataset: as the generator sees it, of latents if it learns those. encode(encoder_params, images) -> {name: [B,T,D]}. space: the VAE, or None."""

    config: object
    dataset: data.Dataset
    mesh: jax.sharding.Mesh
    model: object
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    drift: DriftConfig | None
    encode: object
    encoder_params: object
    sample: object  # shape and dtype of what the bank keeps of a real: its image, or a tree of its features
    per_class: int  # the bank's queues
    pool: int
    bank_on_host: bool
    space: object = None
    baseline: flow.FlowConfig | None = None  # of --objective flow

    @property
    def encodes(self) -> bool:
        """Whether images become latents on their way to the bank."""
        return self.config.model.use_stable_vae

    @property
    def whole_bank(self) -> bool:
        """Whether the bank holds all data, so that nothing is streamed."""
        return self.config.drift.bank_per_class == "all" and self.per_class > 0

    @property
    def push(self) -> int:
        """New reals per step, of a stream."""
        return self.baseline.batch_size if self.baseline else self.config.drift.bank_push

    @property
    def layout(self) -> sharding.Layout:
        """Where the samples of a step are."""
        return sharding.layout(self.mesh, self.drift.n_c // self.drift.groups, self.drift.n_neg)

    @property
    def bank_bytes(self) -> int:
        return banks.bank_bytes(self.dataset.n_classes, self.per_class, self.pool, self.sample)

    @property
    def cached(self) -> bool:
        """Whether the bank keeps features."""
        return isinstance(self.sample, dict)

    def keep(self, encoder_params, images):
        """What the bank keeps of real images."""
        return remember(images, encode=functools.partial(self.encode, encoder_params), flip=self.drift.flip) if self.cached else images

    @property
    def first_ema(self) -> str:
        """The average that samples and scores are made with. A dict that went through jit is sorted, so its first key would not do."""
        return str(self.config.optim.ema[0])

    @property
    def sampling(self) -> dict:
        """How the devices of a process share the samples of `models.sampling.generate`."""
        where = sharding.local(self.mesh)
        return {"batch_size": -(-256 // where.mesh.size) * where.mesh.size, "sharding": where}


def build(config, dataset, mesh, load_encoder=load_encoder) -> Parts:
    """All parts of a run, checked against the data and the devices; nothing is compiled or allocated, but for a trained encoder. load_encoder: in the place of that of models/."""
    d, n_classes = config.drift, dataset.n_classes
    dataset, space = latent_dataset(config, dataset, sharding.local(mesh))
    if d.bank_push % jax.process_count():
        raise UserError(f"--drift.bank_push {d.bank_push} does not divide over {jax.process_count()} processes; give {-(-d.bank_push // jax.process_count()) * jax.process_count()}")
    field = field_settings(d)
    if d.bank_per_class == "all" and dataset.counts is None:
        raise UserError(f"--drift.bank_per_class all: the samples per class of {dataset.name} are not known without reading it; give a number, such as 128")
    if config.objective == "flow":
        return build_flow(config, dataset, space, mesh)
    n_c = classes_per_step(config, dataset, mesh)
    per_class = max(dataset.counts) if d.bank_per_class == "all" else d.bank_per_class
    pool = 0 if d.bank_per_class == "all" else d.bank_global
    n_pos = per_class if d.n_pos == "all" else d.n_pos
    if d.n_pos != "all" and dataset.counts:
        pipeline.check_counts(dataset, dataset.counts, n_pos, "--drift.n_pos")
    drawn = {"--drift.n_unc": d.n_unc} | ({"--drift.n_pos, with --model.class_dropout_prob,": n_pos} if config.model.class_dropout_prob and d.n_pos != "all" else {})
    held = pool or (sum(dataset.counts) if dataset.counts else n_classes * per_class)
    for flag, n in drawn.items():
        if n > held:
            raise UserError(f"{flag} {n}: the bank holds {held} samples of any class to draw it from; give less, or a larger --drift.bank_global")
    model = build_generator(config.model, dataset.shape, n_classes)
    decode = None
    if dataset.latents and not config.dry_run and takes_pixels(config.encoder.name):  # of the encoder, through the VAE's decoder; gradients reach the latents
        space = space or load_latent_space(config.vae, sharding.local(mesh), dataset.latents)
        decode = (lambda params, z: space.vae.decode(params, space.vae.unscale(z)), jax.device_get(space.params))
    encode, encoder_params = build_encoder(config.encoder, config.dry_run, functools.partial(load_encoder, decode=decode))
    drift = DriftConfig(n_classes=n_classes, n_c=n_c, n_neg=d.n_neg, n_pos=n_pos, n_unc=d.n_unc, alpha_min=d.alpha_min, alpha_max=d.alpha_max,
                        alpha_power=d.alpha_power, no_cfg_frac=d.no_cfg_frac, temperatures=tuple(d.temperatures), monitor=d.monitor, **field,
                        groups=config.optim.accumulate, exact_scales=d.exact_scales, set_weight=set_weights(config.encoder), sample_shape=tuple(dataset.shape),
                        style_shape=(model.noise_coords, model.noise_classes), class_dropout_prob=config.model.class_dropout_prob, flip=config.data.flip and dataset.dtype == "uint8")  # fmt: skip
    sample = jax.ShapeDtypeStruct(dataset.shape, dataset.dtype)
    if encode:
        check_monitor(d.monitor, encode, encoder_params, dataset.shape)
        kept = lambda params, images: remember(images, encode=functools.partial(encode, params), flip=drift.flip)
        features = jax.eval_shape(kept, encoder_params, jax.ShapeDtypeStruct((1, *dataset.shape), dataset.dtype))
        features = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), features)
        config = choose_cache(config, drift, banks.bank_bytes(n_classes, per_class, pool, features), mesh.size)
        sample = features if config.encoder.cache == "on" else sample
    size = banks.bank_bytes(n_classes, per_class, pool, sample)
    waits = isinstance(sample, dict) and d.bank_per_class != "all"  # new features come from the device: on the host, each step would wait for them
    on_host = d.bank_placement == "host" or (d.bank_placement == "auto" and size > d.bank_budget_gb * 1e9 and not waits)
    schedule, optimizer = loop.build_optimizer(config.optim, config.max_steps)
    return Parts(config, dataset, mesh, model, optimizer, schedule, drift, encode, encoder_params, sample, per_class, pool, on_host, space)


def field_settings(d) -> dict:
    """What --drift.* say of the field, as arguments of DriftConfig; flags that the field has no use for are refused."""
    if d.field not in FIELDS:
        raise UserError(f"--drift.field {d.field}: unknown field{config_lib.near(d.field, FIELDS)} (known: {', '.join(FIELDS)})")
    takes = inspect.signature(FIELDS[d.field]).parameters
    options = {k: d[k] for k in ("kernel", "normalize", "iterations", "attraction", "repulsion")}
    of_learned = {k: d[k] for k in ("field_width", "field_projection", "field_lr", "field_ema")}
    for k, value in (options | of_learned).items():
        if value != config_lib.KEYS[f"drift.{k}"].default and k not in takes and not (k in of_learned and d.field == "learned"):
            raise UserError(f"--drift.{k} {value}: the {d.field} field has no use for it; leave it out")
    if d.field == "uncoupled" and d.normalize == "none":
        raise UserError("--drift.normalize none: the uncoupled field is one whose rows sum to 1; give both or y, or --drift.field kernel")
    if d.iterations % 0.5:
        raise UserError(f"--drift.iterations {d.iterations}: expected a multiple of 0.5, half an iteration being one of the two updates")
    auto = d.field == "sinkhorn"
    return {"field": d.field, "field_options": {k: v for k, v in options.items() if k in takes}, "field_lr": d.field_lr,
            "second_batch": d.negatives == "second" or d.negatives == "auto" and auto,
            "guidance": "field" if d.guidance == "field" or d.guidance == "auto" and auto else "negatives"}  # fmt: skip


def build_flow(config, dataset, space, mesh) -> Parts:
    """The parts of the baseline. The bank holds all data, if it is to and fits on the device; otherwise nothing, and each step takes a batch of the stream."""
    if config.batch_size % mesh.size:
        raise UserError(f"--batch_size {config.batch_size} does not divide over {mesh.size} devices; give --batch_size {-(-config.batch_size // mesh.size) * mesh.size}")
    d, whole, sample = config.drift, max(dataset.counts or [0]), jax.ShapeDtypeStruct(dataset.shape, dataset.dtype)
    on_device = d.bank_placement == "device" or (d.bank_placement == "auto" and banks.bank_bytes(dataset.n_classes, whole, 0, sample) <= d.bank_budget_gb * 1e9)
    per_class = whole if d.bank_per_class == "all" and on_device else 0
    model = flow.Flow(build_generator(config.model, dataset.shape, dataset.n_classes), config.denoise_timesteps)
    settings = flow.FlowConfig(batch_size=config.batch_size, n_classes=dataset.n_classes, class_dropout_prob=config.model.class_dropout_prob,
                               t_sampler=config.flow.t_sampler, flip=config.data.flip and dataset.dtype == "uint8")  # fmt: skip
    schedule, optimizer = loop.build_optimizer(config.optim, config.max_steps)
    return Parts(config, dataset, mesh, model, optimizer, schedule, None, None, {}, sample, per_class, 0, False, space, settings)


def classes_per_step(config, dataset, mesh) -> int:
    """N_c, which must go round the classes evenly and divide over the devices."""
    n_neg, n_classes, devices = config.drift.n_neg, dataset.n_classes, mesh.size
    n_c = config.batch_size // n_neg
    fits = [k for k in range(1, max(n_c, n_classes, devices) * devices + 1) if k % devices == 0 and (k <= n_classes or k % n_classes == 0)]
    near = min(fits, key=lambda k: abs(k - n_c)) * n_neg
    if n_c > n_classes and n_c % n_classes:
        raise UserError(f"--batch_size {config.batch_size} / --drift.n_neg {n_neg} = {n_c} classes per step, but {dataset.name} has {n_classes} classes; give --batch_size {near}")
    groups = config.optim.accumulate
    if n_c % groups:
        raise UserError(f"--optim.accumulate {groups}: it must divide the {n_c} classes of a step (--batch_size {config.batch_size} / --drift.n_neg {n_neg}); give {', '.join(str(k) for k in range(1, n_c + 1) if n_c % k == 0)}")
    if not sharding.layout(mesh, n_c // groups, n_neg):
        fewer = [k for k in range(1, devices) if (n_c // groups) % k == 0 and k % config.mesh.fsdp == 0]
        hint = f", or --mesh.devices {fewer[-1]}" if fewer else ""
        rows = -(-n_neg // devices) * devices
        raise UserError(f"--batch_size {config.batch_size} = {n_c} classes of {n_neg}{f' in {groups} groups' if groups > 1 else ''}: neither the classes{' of a group' if groups > 1 else ''} nor the generated samples "
                        f"of a class divide over {devices} devices; give --drift.n_neg {rows} --batch_size {n_c * rows}, {f'or --batch_size {near}' if groups == 1 else 'or fewer groups'}{hint}")
    return n_c


def build_encoder(e, names_only=False, load_encoder=load_encoder):
    """(encode, params) of the frozen feature encoder; `none` compares raw samples. names_only: only the flags are checked; nothing is read or fetched."""
    where, options = join_where(e.name, e.path), options_of(e)
    if names_only and e.name != "none":
        split_where(where)
        return None, {}
    encode, params, _ = load_encoder(where, **options)
    return encode, only_used(params)


def choose_cache(config, drift, size, devices):
    """The configuration with encoder.cache on or off: whether the bank keeps features, `size` bytes in all, in the place of images. The choice is part of the run."""
    e, d = config.encoder, config.drift
    pushed, drawn = d.bank_push * (1 + drift.flip), drift.n_c * (drift.n_pos + drift.n_unc) // devices
    reasons = {
        "raw samples have no features to keep": e.name == "none",
        "with --drift.bank_placement host each step would wait for the features of its new samples": d.bank_placement == "host" and d.bank_per_class != "all",
    }
    not_worth = {
        f"{size / 1e9:.1f} GB of features are over --encoder.cache_budget_gb {e.cache_budget_gb:g}": size > e.cache_budget_gb * 1e9,
        f"the {pushed} new images of a step are no fewer than the {drawn} reals that a device encodes": d.bank_per_class != "all" and pushed >= drawn,
    }
    senseless = [reason for reason, holds in reasons.items() if holds]
    if e.cache == "on" and senseless:
        raise UserError(f"--encoder.cache on: {senseless[0]}; leave it out")
    config = copy.deepcopy(config)
    if e.cache == "auto":
        off = senseless + [reason for reason, holds in not_worth.items() if holds]
        config.encoder.cache = "off" if off else "on"
        if off and e.name != "none":
            log.info("features of reals are computed in each step: %s", off[0])
    return config


def check_monitor(name, encode, params, shape):
    """The feature set of the energy distance must be there, with one vector per image."""
    sets = jax.eval_shape(encode, params, jax.ShapeDtypeStruct((1, *shape), np.float32))
    vectors = [k for k, f in sets.items() if f.shape[1] == 1]
    if not vectors or name and name not in vectors:
        raise UserError(f"--drift.monitor {name or '(empty)'}: expected a feature set with one vector per image; this encoder has {', '.join(vectors) or 'none, add the raw sample with --encoder.name none+...'}")


def make_state(parts: Parts) -> TrainState:
    """The state before the first step, on the mesh; it depends on the seed, and on the weights of --init_from, alone."""
    given = given_params(parts) if parts.config.init_from else None
    return jax.jit(functools.partial(new_state, parts), out_shardings=jax.tree.map(lambda a: a.sharding, state_shapes(parts)))(given)


def new_state(parts: Parts, params=None) -> TrainState:
    c = parts.config
    params = params or init_params(parts.model, named_key(c.seed, "init"))
    field = None
    if c.drift.field == "learned" and parts.encode:  # a dry run has no encoder, and so does not know its sizes
        sets = jax.eval_shape(parts.encode, parts.encoder_params, jax.ShapeDtypeStruct((1, *parts.dataset.shape), np.float32))
        field = init_field_state(named_key(c.seed, "field"), [f.shape[2] for f in sets.values()], c.drift.field_width, c.drift.field_projection, c.drift.field_ema)
    return init_state(params, parts.optimizer, c.optim.ema, c.seed, field)


def given_params(parts: Parts):
    """The parameters of --init_from, checked to be of this generator."""
    where = parts.config.init_from
    _, params, _ = load_generator(where)
    expected = jax.tree.map(lambda a: a.shape, jax.eval_shape(lambda: init_params(parts.model, jax.random.key(0))))
    found = jax.tree.map(np.shape, params)
    if expected != found:
        a, b = (config_lib.flatten(t) for t in (expected, found))
        name = next(k for k in sorted(a | b) if a.get(k) != b.get(k))
        raise UserError(f"--init_from {where}: {name} is {b.get(name, 'absent')} there and {a.get(name, 'absent')} in this generator; give its --model flags, or other weights")
    return params


def state_shapes(parts: Parts):
    """`make_state` without computing it: shapes and shardings."""
    state = jax.eval_shape(functools.partial(new_state, parts))
    where = sharding.state_shardings(parts.mesh, state)
    where = where.replace(field=jax.tree.map(lambda _: sharding.replicated(parts.mesh), state.field))  # small
    return sharding.shapes(state, where)


def jit_step(parts: Parts):
    """The program of a step, state and bank donated: (state, bank, fresh, encoder_params) -> (state, bank, metrics), or, with the bank in host memory, (state, batch, encoder_params) -> (state, metrics)."""
    if parts.baseline:
        return jit_flow_step(parts)

    def generate(params, noise, labels, alpha, style):
        params = sharding.gather(parts.mesh, params)  # fsdp: weights travel, samples stay
        return parts.model.apply({"params": params}, noise, labels, alpha, style)

    shardings = jax.tree.map(lambda a: a.sharding, state_shapes(parts))
    networks = dict(generate=generate, optimizer=parts.optimizer, config=parts.drift, place=parts.layout)
    if not parts.bank_on_host:
        def step(state, bank, fresh, encoder_params):
            keep = functools.partial(parts.keep, encoder_params)
            return train_step(state, bank, fresh, encode=functools.partial(parts.encode, encoder_params), keep=keep, **networks)

        everywhere = sharding.replicated(parts.mesh)
        return jax.jit(step, donate_argnums=(0, 1), out_shardings=(shardings, everywhere, everywhere))

    def step_on_batch(state, batch, encoder_params):
        return drift_step(state, batch, encode=functools.partial(parts.encode, encoder_params), **networks)

    return jax.jit(step_on_batch, donate_argnums=(0,), out_shardings=(shardings, sharding.replicated(parts.mesh)))


def jit_flow_step(parts: Parts):
    """The same of --objective flow."""
    def velocity(params, *inputs):
        return parts.model.velocity(sharding.gather(parts.mesh, params), *inputs)

    place = lambda tree: jax.lax.with_sharding_constraint(tree, sharding.batch_sharding(parts.mesh))
    step = functools.partial(flow.train_step, velocity=velocity, optimizer=parts.optimizer, config=parts.baseline, place=place)
    shardings, everywhere = jax.tree.map(lambda a: a.sharding, state_shapes(parts)), sharding.replicated(parts.mesh)
    return jax.jit(lambda state, bank, fresh, encoder_params: step(state, bank, fresh), donate_argnums=(0, 1), out_shardings=(shardings, everywhere, everywhere))


def make_step(parts: Parts, first_step: int = 0):
    """step(state, bank, fresh, encoder_params) -> (state, bank, metrics), jitted once, state and bank donated. first_step: of the state that it starts from."""
    jitted = jit_step(parts)
    if not parts.bank_on_host:
        return jitted
    host = HostBank(parts, first_step)

    def step(state, bank, fresh, encoder_params):
        bank, batch = host(bank, fresh)
        state, metrics = jitted(state, sharding.put(batch, parts.layout.of_groups), encoder_params)
        return state, bank, metrics

    return step


# ---------------------------------------------------------------- the bank

class HostBank:
    """Pushes and draws in host memory, by the same programs as on the device, run on the CPU: the batches are the same to the bit."""

    def __init__(self, parts: Parts, first_step: int = 0):
        try:
            self.cpu = jax.local_devices(backend="cpu")[0]
        except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
            self.cpu = jax.local_devices()[0]
        self.step, self.groups = first_step, parts.drift.groups
        self.seed = np.uint32(parts.config.seed)
        shapes = {"images": jax.ShapeDtypeStruct((parts.dataset.n_classes, parts.per_class), np.uint8), "pool": jax.ShapeDtypeStruct((parts.pool,), np.uint8)}
        self.push_slots = jax.jit(lambda counters, labels: banks.push_slots(shapes | counters, labels))
        self.draw = jax.jit(lambda counters, seed, step: banks.draw(shapes | counters, seed, step, parts.drift))

    def push(self, bank, images, labels):
        images, labels = jax.device_get((images, labels))
        counters = {k: v for k, v in bank.items() if k not in ("images", "pool")}
        slots = self._on_cpu(self.push_slots, counters, np.asarray(labels, np.int32))
        return banks.push_host(bank, slots, images, labels)

    def __call__(self, bank, fresh):
        bank = bank if fresh is None else self.push(bank, *fresh)
        counters = {k: v for k, v in bank.items() if k not in ("images", "pool")}
        plan = self._on_cpu(self.draw, counters, self.seed, np.int32(self.step))
        self.step += 1
        return bank, banks.gather(bank, in_groups(plan, self.groups))

    def _on_cpu(self, function, *args):
        with jax.default_device(self.cpu), jax.transfer_guard("allow"):
            return jax.device_get(function(*args))


def keep_on_one_device(parts: Parts, at_once: int):
    """keep(images [S, ...]) -> what the bank keeps of S <= at_once images, NumPy. One device computes it, so that the number of devices changes no bit."""
    if not parts.cached:
        return lambda images: images
    device = jax.local_devices()[0]
    params, jitted = jax.device_put(parts.encoder_params, device), jax.jit(parts.keep)

    def keep(images):
        padded = np.concatenate([images, np.zeros((at_once - len(images), *images.shape[1:]), images.dtype)])
        return jax.tree.map(lambda a: a[: len(images)], jax.device_get(jitted(params, jax.device_put(padded, device))))

    return keep


def reals(parts: Parts, position: int):
    """Endless batches (samples [S,H,W,C], labels [S]) of `parts.push` reals, from sample `position` of the stream on.

    NumPy arrays; or arrays on every device, where several processes read a part each, or where images are encoded on the way. The batches are the same.
    """
    c, rank, ranks = parts.config, jax.process_index(), jax.process_count()
    mine = parts.push // ranks
    share = sharding.Shares(parts.mesh, mine, *encoding(parts)) if ranks > 1 or parts.encodes else None
    for images, labels in pipeline.stream(parts.dataset, c.seed, mine, position, rank, ranks, c.data.workers):
        index = (position + rank + ranks * np.arange(mine)).astype(np.uint32)
        yield share((images, labels, index))[:2] if share else (images, labels)
        position += parts.push


def encoding(parts: Parts):
    """What `sharding.Shares` does to a batch (images, labels, index in the stream), and the parameters for it."""
    if not parts.encodes:
        return ()
    return lambda params, rows: (parts.space.draw(params, rows[0], rows[2], parts.config.seed, parts.config.data.flip), *rows[1:]), jax.device_get(parts.space.params)


def fill_bank(parts: Parts):
    """The bank before the first step, as NumPy arrays, and how many samples of the stream it took.

    A whole bank holds the data set in its order. Another takes the stream until every class, and the pool, hold what a step draws from them.
    """
    dataset, bank = parts.dataset, banks.empty_bank(parts.dataset.n_classes, parts.per_class, parts.pool, parts.sample)
    if parts.whole_bank:
        images, labels = pipeline.everything(dataset)
        images = parts.space.encode(images, parts.config.seed, parts.config.data.flip) if parts.encodes else images
        bank["filled"][:] = np.bincount(labels, minlength=dataset.n_classes)
        bank["next"][:] = bank["filled"] % parts.per_class
        slots = np.zeros_like(labels)
        for k in range(dataset.n_classes):
            slots[labels == k] = np.arange(bank["filled"][k])
        at_once = 128
        keep = keep_on_one_device(parts, at_once)
        for start in range(0, len(images), at_once):
            some = slice(start, start + at_once)
            for kept, new in zip(jax.tree.leaves(bank["images"]), jax.tree.leaves(keep(images[some]))):
                kept[labels[some], slots[some]] = new
        return bank, 0
    if parts.baseline:
        return bank, 0
    keep = keep_on_one_device(parts, parts.config.drift.bank_push)
    host, position = HostBank(parts), 0
    needed = min(parts.drift.n_pos, parts.per_class)
    for images, labels in reals(parts, 0):
        images, labels = jax.device_get((images, labels))
        bank = host.push(bank, keep(images), labels)
        position += len(labels)
        of_any_class = bank["pool_filled"] if parts.pool else bank["filled"].sum()
        enough = bank["filled"].min() >= needed and of_any_class >= min(parts.pool or of_any_class + 1, max(parts.drift.n_unc, parts.drift.n_pos))
        if enough and (parts.config.drift.n_pos != "all" or position >= len(dataset.source)):
            return bank, position
        if position > len(dataset.source) + len(labels):  # every sample was seen
            if parts.config.drift.n_pos == "all" and bank["filled"].min() > 0:
                return bank, position
            pipeline.check_counts(dataset, bank["filled"], needed if parts.config.drift.n_pos != "all" else 1, "--drift.n_pos")


# ---------------------------------------------------------------- the run

# What a run may change when it goes on: not the data, the seed, the networks, the bank or the averages that its checkpoints hold.
FIXED = ("dataset_name", "seed", "objective", "optim.ema", "model.", "drift.bank_", "encoder.", "data.stream", "drift.field_")
FREE = ("model.preset", "model.unroll", "model.remat", "model.attention", "model.use_bf16", "model.attn_fp32", "drift.bank_placement", "drift.bank_budget_gb", "drift.field_lr")


def check_same_run(before, config, where):
    learned = "learned" in (config_lib.flatten(before)["drift.field"], config.drift.field)  # its parameters are in the checkpoint
    loop.check_same_run(before, config, where, FIXED + (("drift.field",) if learned else ()), FREE)


def open_run(config) -> pathlib.Path:
    """The run folder, made and writable; refused when it holds a run of another data set or model."""
    folder = loop.run_folder(config)
    if loop.has_run(folder):
        check_same_run(config_lib.from_json(folder / "config.json").to_dict(), config, folder)
    return loop.make_folder(folder)


def checkpoint_tree(parts: Parts, state: TrainState, bank):
    """What a checkpoint holds, by separately readable items. The features of a bank that holds the whole data set are left out: `restore` computes them again."""
    ema = {f"ema_{decay}": tree for decay, tree in state.ema.items()}
    field = {"field": state.field} if state.field else {}
    bank = {k: v for k, v in bank.items() if k not in ("images", "pool") or not (parts.cached and parts.whole_bank)}
    return {"state": {"step": state.step, "seed": state.seed}, "params": state.params, "opt_state": state.opt_state, "bank": bank} | ema | field


def checkpoint_shapes(parts: Parts):
    """`checkpoint_tree` of these parts, as shapes and shardings."""
    where = None if parts.bank_on_host else sharding.replicated(parts.mesh)
    bank = jax.eval_shape(lambda: banks.empty_bank(parts.dataset.n_classes, parts.per_class, parts.pool, parts.sample))
    return checkpoint_tree(parts, state_shapes(parts), jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), bank))


def restore(parts: Parts, checkpoints: Checkpoints):
    """(state, bank, position in the stream) of the newest readable checkpoint, on this mesh."""
    tree, metadata, _ = checkpoints.restore(checkpoint_shapes(parts))
    check_same_run(metadata["config"], parts.config, checkpoints.folder.parent)
    before, now = ((d or {}).get("vae_weights") for d in (metadata["dataset"].get("latents"), parts.dataset.latents))
    if before != now:
        raise UserError(f"{checkpoints.folder.parent} holds a run on latents of a VAE with the checksum {before}, now {now}; give its VAE with --vae, or another --save_dir")
    ema = {name.removeprefix("ema_"): item for name, item in tree.items() if name.startswith("ema_")}
    state, bank = TrainState(tree["state"]["step"], tree["state"]["seed"], tree["params"], tree["opt_state"], ema, tree.get("field")), tree["bank"]
    if parts.cached and parts.whole_bank:
        bank = place_bank(parts, fill_bank(parts)[0])
    return state, bank, metadata["position"]


def place_bank(parts: Parts, bank):
    """A bank of NumPy arrays, where the steps want it."""
    return bank if parts.bank_on_host else sharding.put(bank, sharding.replicated(parts.mesh))


def report(parts: Parts) -> str:
    """What the run takes, known before it starts."""
    c, shapes, mb = parts.config, state_shapes(parts), loop.megabytes_per_device
    rows = {
        "data": f"{parts.dataset.name}: {len(parts.dataset.source):,} samples of {parts.dataset.shape}, {parts.dataset.n_classes} classes",
        "generator": f"{c.model.name}, {count_parameters(shapes.params):,} parameters",
        "step": f"{c.batch_size} samples of a rectified flow" if parts.baseline else f"{parts.drift.n_c} classes x ({parts.drift.n_neg} generated, {parts.drift.n_pos} positive, {parts.drift.n_unc} unconditional){f' in {parts.drift.groups} groups' if parts.drift.groups > 1 else ''}; {parts.layout}",
        "steps": f"{c.max_steps:,}",
        "devices": f"{parts.mesh.size} x {parts.mesh.devices.flat[0].device_kind}, mesh data {parts.mesh.shape['data']} x fsdp {parts.mesh.shape['fsdp']}",
        "per device": f"parameters {mb(shapes.params)}, optimiser {mb(shapes.opt_state)}, {len(shapes.ema)} EMA {mb(shapes.ema)}",
        "field": describe_field(parts, shapes),
        "bank": f"{parts.bank_bytes / 1e6:.1f} MB of {'features' if parts.cached else 'samples'}{'' if parts.encode else ' (of features, if they are kept, which takes the encoder to know)'} {'in host memory' if parts.bank_on_host else 'on each device'}",
    }
    return "\n".join(f"{name:12}{text}" for name, text in rows.items())


def describe_field(parts: Parts, shapes) -> str:
    d = parts.drift
    options = ", ".join(f"{k} {v}" for k, v in d.field_options.items() if v != inspect.signature(FIELDS[d.field]).parameters[k].default)
    learned = f"{count_parameters(shapes.field['params']):,} parameters of its own" if shapes.field else ""
    return ", ".join(filter(None, (d.field, options, learned, "a second generated batch" if d.second_batch else "")))


class CollapseWatch:
    """Warns when the samples of a class stay all alike: every sample then gets the same drift, and nothing separates them again."""

    PATIENCE = 3  # log lines in a row

    def __init__(self, ratio: float, stop: bool):
        self.ratio, self.stop, self.low = ratio, stop, 0

    def check(self, step: int, diversity: float):
        """diversity: mean distance between the generated samples of a class, over that between its reals. Raises UserError if the run shall stop."""
        self.low = self.low + 1 if diversity < self.ratio else 0
        if self.low == self.PATIENCE:
            message = (f"collapse: at step {step} the samples of a class are {diversity:.3f} times as far apart as its reals, under --collapse_ratio {self.ratio} "
                       f"for {self.PATIENCE} log lines; a lower learning rate, a longer warm-up, more --drift.n_neg, or --model.zero_init_output 0 may help")  # fmt: skip
            if self.stop:
                raise UserError(message)
            log.warning(message)


def next_fresh(parts: Parts, stream):
    """The newest reals for the bank, where the step wants them; None for a bank that holds everything."""
    if stream is None:
        return None
    fresh = next(stream)
    return fresh if parts.bank_on_host or isinstance(fresh[0], jax.Array) else sharding.put(fresh, sharding.replicated(parts.mesh))


def draw_figures(parts: Parts, folder: pathlib.Path, state: TrainState, step: int):
    """samples/step_*.png, eight of each of the first sixteen classes by the first EMA, and curves.png. Returns the path of the first."""
    classes = np.arange(min(parts.dataset.n_classes, 16))
    params = sharding.local_copy(parts.mesh, state.ema[parts.first_ema])
    grid = folder / "samples" / f"step_{step:08d}.png"
    if not processes.is_first():
        return grid
    samples = generate(parts.model, params, np.repeat(classes, 8), 1.0, parts.config.seed, **parts.sampling)
    samples = map(parts.space.decode, samples) if parts.space else samples
    save_grid(grid, np.concatenate(list(samples)), columns=8, row_labels=[parts.dataset.class_names[k] for k in classes])
    rows = [{"step": row["step"]} | scores(row) for row in read_rows(folder / "fid.csv") if row["cfg_scale"] == 1]
    save_curves(folder / "curves.png", read_metrics(folder / "metrics.jsonl") + rows, collapse_ratio=parts.config.collapse_ratio)
    return grid


def load_reference(parts: Parts):
    """What evaluations while training are held against; it depends on the configuration alone."""
    c = parts.config
    return eval_fid.load_reference(c.dataset_name, features=c.features, inception_weights=c.inception_weights, fid_stats=c.fid_stats, data_options=c.data,
                                   shape=parts.space.image_shape(parts.dataset.shape) if parts.space else parts.dataset.shape,
                                   **parts.sampling)  # fmt: skip


def score(parts: Parts, folder: pathlib.Path, state: TrainState, step: int, reference):
    """One row of fid.csv, by the first EMA; of fewer samples than a published figure, and named so."""
    settings = {"step": step, "ema": parts.first_ema, "cfg_scale": 1.0, "seed": parts.config.seed} | flow.settings(parts.model)
    params = sharding.local_copy(parts.mesh, state.ema[parts.first_ema])
    row = settings | eval_fid.evaluate(parts.model, params, reference, cfg_scale=1.0, seed=parts.config.seed, num_samples=eval_count(parts, reference),
                                       space=parts.space, **parts.sampling)  # fmt: skip
    if processes.is_first():
        append_row(folder / "fid.csv", row)
    log.info("step %d: %s", step, ", ".join(f"{k} {v:.3f}" for k, v in scores(row).items()))


def eval_count(parts: Parts, reference) -> int:
    """Samples of an evaluation while training."""
    return parts.config.eval_samples or min(eval_fid.usual_count(reference), eval_fid.WHILE_TRAINING)


def main(flag_values):
    setup_logging()
    with distributed.job(config_lib.all_flags(flag_values).distributed):
        run(flag_values)


def run(flag_values):
    """The program, in each process of the job."""
    folder = loop.run_folder(config_lib.all_flags(flag_values))
    saved = config_lib.from_json(folder / "config.json") if loop.has_run(folder) else None  # a run goes on with its own settings, and what the command line adds
    config = config_lib.resolve(flag_values, saved)
    mesh = sharding.make_mesh(config.mesh.devices, config.mesh.fsdp)
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    parts = build(config, data.load(config.dataset_name, config.data.split, config.data, facts_only=config.dry_run), mesh)
    if config.load_dir and not (source := Checkpoints(pathlib.Path(config.load_dir) / "checkpoints")).steps():
        source.restore({})  # says what is missing
    if config.init_from and "://" not in config.init_from:
        given_params(parts)
    if config.dry_run:
        if processes.is_first():
            print(config_lib.explain(parts.config, flag_values, saved), report(parts), sep="\n\n")
        return
    train(parts, open_run(parts.config))


def train(parts: Parts, folder: pathlib.Path):
    loop.train(DriftJob(parts, folder), folder)


class DriftJob(loop.Job):
    """What `utils.loop.train` drives: the state, the bank and the stream of reals."""

    def __init__(self, parts: Parts, folder: pathlib.Path):
        self.parts, self.folder, self.config, self.samples = parts, folder, parts.config, len(parts.dataset.source)

    def start(self, checkpoints):
        if checkpoints:
            self.state, self.bank, self.position = restore(self.parts, checkpoints)
        else:
            self.state, (bank, self.position) = make_state(self.parts), fill_bank(self.parts)
            self.bank = place_bank(self.parts, bank)
        return int(self.state.step)

    def prepare(self, step):
        parts, c = self.parts, self.config
        self.stream = None if parts.whole_bank else reals(parts, self.position)
        self.encoder_params = sharding.put(parts.encoder_params, sharding.replicated(parts.mesh))
        self.reference = load_reference(parts) if c.eval_interval else None
        self.step_fn, self.collapse = make_step(parts, step), CollapseWatch(c.collapse_ratio, c.stop_on_collapse)

    def fetch(self):
        return next_fresh(self.parts, self.stream)

    def advance(self, fresh):
        self.state, self.bank, metrics = self.step_fn(self.state, self.bank, fresh, self.encoder_params)
        self.position += 0 if fresh is None else self.parts.push
        return metrics

    def after_first_step(self):
        if self.reference:
            params = sharding.local_copy(self.parts.mesh, self.state.ema[self.parts.first_ema])
            eval_fid.sanity_check(self.parts.model, params, self.reference, cfg_scale=1.0, seed=self.config.seed, space=self.parts.space, **self.parts.sampling)

    def learning_rate(self, step):
        return float(self.parts.schedule(step - 1))

    def after_log(self, step, values):
        if not self.parts.baseline:
            self.collapse.check(step, values["diversity"])

    def evaluate(self, step, run):
        score(self.parts, self.folder, self.state, step, self.reference)

    def draw(self, step):
        return draw_figures(self.parts, self.folder, self.state, step)

    def checkpoint(self):
        return checkpoint_tree(self.parts, self.state, self.bank), describe_run(self.parts, self.position)


def describe_run(parts: Parts, position: int) -> dict:
    """What a checkpoint says of itself: enough to sample from it, and to resume the stream."""
    dataset = {"name": parts.dataset.name, "class_names": parts.dataset.class_names, "shape": parts.dataset.shape, "dtype": parts.dataset.dtype,
               "latents": parts.dataset.latents}  # fmt: skip
    return {"generator": describe(parts.model), "dataset": dataset, "ema": [str(d) for d in parts.config.optim.ema], "position": position, "config": parts.config.to_dict()}


if __name__ == "__main__":
    config_lib.define_flags(extra=DISTRIBUTED)
    config_lib.run_main(main)
