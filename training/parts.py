"""Configuration -> parts of a run, checked against the data and the devices before anything is compiled."""

import copy
import dataclasses
import functools
import inspect
import logging

import jax
import numpy as np
import optax

import data
from baselines import flow
from data import pipeline
from drifting import bank as banks
from drifting.cache import remember
from drifting.config import DriftConfig
from drifting.fields import FIELDS
from models.build import build_generator
from models.encoders import (
    join_where,
    load_encoder,
    only_used,
    options_of,
    set_weights,
    split_where,
    takes_pixels,
)
from models.latents import latent_dataset, load_latent_space
from models.narrow import narrow
from training import loop
from utils import config as config_lib
from utils import sharding
from utils.errors import UserError
from utils.words import did_you_mean

log = logging.getLogger("train")


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
    def layout(self) -> sharding.MeshLayout:
        """Where the samples of a step are."""
        return sharding.choose_layout(
            self.mesh, self.drift.n_c // self.drift.groups, self.drift.n_neg
        )

    @property
    def bank_bytes(self) -> int:
        return banks.bank_bytes(self.dataset.n_classes, self.per_class, self.pool, self.sample)

    @property
    def cached(self) -> bool:
        """Whether the bank keeps features."""
        return isinstance(self.sample, dict)

    def store(self, encoder_params, images):
        """What the bank keeps of real images."""
        return (
            remember(
                images, encode=functools.partial(self.encode, encoder_params), flip=self.drift.flip
            )
            if self.cached
            else images
        )

    @property
    def first_ema(self) -> str:
        """The average that samples and scores are made with. A dict that went through jit is sorted, so its first key would not do."""
        return str(self.config.optim.ema[0])

    @property
    def sampling(self) -> dict:
        """How the devices of a process share the samples of `models.sampling.generate`."""
        where = sharding.local_sharding(self.mesh)
        return {"batch_size": -(-256 // where.mesh.size) * where.mesh.size, "sharding": where}


def build(config, dataset, mesh, load_encoder=load_encoder) -> Parts:
    """All parts of a run, checked against the data and the devices; nothing is compiled or allocated, but for a trained encoder. load_encoder: in the place of that of models/."""
    d, n_classes = config.drift, dataset.n_classes
    dataset, space = latent_dataset(config, dataset, sharding.local_sharding(mesh))
    if d.bank_push % jax.process_count():
        raise UserError(
            f"--drift.bank_push {d.bank_push} does not divide over {jax.process_count()} processes; give {-(-d.bank_push // jax.process_count()) * jax.process_count()}"
        )
    field = field_settings(d)
    if d.bank_per_class == "all" and dataset.counts is None:
        raise UserError(
            f"--drift.bank_per_class all: the samples per class of {dataset.name} are not known without reading it; give a number, such as 128"
        )
    if config.objective == "flow":
        return build_flow(config, dataset, space, mesh)
    n_c = classes_per_step(config, dataset, mesh)
    per_class = max(dataset.counts) if d.bank_per_class == "all" else d.bank_per_class
    pool = 0 if d.bank_per_class == "all" else d.bank_global
    n_pos = per_class if d.n_pos == "all" else d.n_pos
    if d.n_pos != "all" and dataset.counts:
        pipeline.check_counts(dataset, dataset.counts, n_pos, "--drift.n_pos")
    drawn = {"--drift.n_unc": d.n_unc} | (
        {"--drift.n_pos, with --model.class_dropout_prob,": n_pos}
        if config.model.class_dropout_prob and d.n_pos != "all"
        else {}
    )
    held = pool or (sum(dataset.counts) if dataset.counts else n_classes * per_class)
    for flag, n in drawn.items():
        if n > held:
            raise UserError(
                f"{flag} {n}: the bank holds {held} samples of any class to draw it from; give less, or a larger --drift.bank_global"
            )
    model = build_generator(config.model, dataset.shape, n_classes)
    decode = None
    if (
        dataset.latents and not config.dry_run and takes_pixels(config.encoder.name)
    ):  # of the encoder, through the VAE's decoder; gradients reach the latents
        space = space or load_latent_space(
            config.vae, sharding.local_sharding(mesh), dataset.latents
        )
        decode = (
            lambda params, z: space.vae.decode(params, space.vae.unscale(z)),
            jax.device_get(space.params),
        )
    encode, encoder_params = build_encoder(
        config.encoder, config.dry_run, functools.partial(load_encoder, decode=decode)
    )
    if encode:
        encoder_params = narrow(
            encode, encoder_params, jax.ShapeDtypeStruct((1, *dataset.shape), np.float32)
        )
    monitor = (
        choose_monitor(d.monitor, encode, encoder_params, dataset.shape) if encode else d.monitor
    )
    drift = DriftConfig(
        n_classes=n_classes,
        n_c=n_c,
        n_neg=d.n_neg,
        n_pos=n_pos,
        n_unc=d.n_unc,
        alpha_min=d.alpha_min,
        alpha_max=d.alpha_max,
        alpha_power=d.alpha_power,
        no_cfg_frac=d.no_cfg_frac,
        temperatures=tuple(d.temperatures),
        monitor=monitor,
        **field,
        groups=config.optim.accumulate,
        exact_scales=d.exact_scales,
        set_weight=set_weights(config.encoder),
        sample_shape=tuple(dataset.shape),
        style_shape=(model.noise_coords, model.noise_classes),
        class_dropout_prob=config.model.class_dropout_prob,
        flip=config.data.flip and dataset.dtype == "uint8",
    )
    sample = as_row(dataset)
    if encode:
        kept = lambda params, images: remember(
            images, encode=functools.partial(encode, params), flip=drift.flip
        )
        features = jax.eval_shape(
            kept, encoder_params, jax.ShapeDtypeStruct((1, *dataset.shape), dataset.dtype)
        )
        features = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), features)
        config = choose_cache(
            config, drift, banks.bank_bytes(n_classes, per_class, pool, features), mesh.size
        )
        sample = features if config.encoder.cache == "on" else sample
    size = banks.bank_bytes(n_classes, per_class, pool, sample)
    waits = (
        isinstance(sample, dict) and d.bank_per_class != "all"
    )  # new features come from the device: on the host, each step would wait for them
    on_host = d.bank_placement == "host" or (
        d.bank_placement == "auto" and size > d.bank_budget_gb * 1e9 and not waits
    )
    schedule, optimizer = loop.build_optimizer(config.optim, config.max_steps)
    return Parts(
        config,
        dataset,
        mesh,
        model,
        optimizer,
        schedule,
        drift,
        encode,
        encoder_params,
        sample,
        per_class,
        pool,
        on_host,
        space,
    )


def field_settings(d) -> dict:
    """What --drift.* say of the field, as arguments of DriftConfig; flags that the field has no use for are refused."""
    if d.field not in FIELDS:
        raise UserError(
            f"--drift.field {d.field}: unknown field{did_you_mean(d.field, FIELDS)} (known: {', '.join(FIELDS)})"
        )
    takes = inspect.signature(FIELDS[d.field]).parameters
    options = {k: d[k] for k in ("kernel", "normalize", "iterations", "attraction", "repulsion")}
    of_learned = {k: d[k] for k in ("field_width", "field_projection", "field_lr", "field_ema")}
    for k, value in (options | of_learned).items():
        if (
            value != config_lib.KEYS[f"drift.{k}"].default
            and k not in takes
            and not (k in of_learned and d.field == "learned")
        ):
            raise UserError(
                f"--drift.{k} {value}: the {d.field} field has no use for it; leave it out"
            )
    if d.field == "uncoupled" and d.normalize == "none":
        raise UserError(
            "--drift.normalize none: the uncoupled field is one whose rows sum to 1; give both or y, or --drift.field kernel"
        )
    if d.iterations % 0.5:
        raise UserError(
            f"--drift.iterations {d.iterations}: expected a multiple of 0.5, half an iteration being one of the two updates"
        )
    auto = d.field == "sinkhorn"
    return {
        "field": d.field,
        "field_options": {k: v for k, v in options.items() if k in takes},
        "field_lr": d.field_lr,
        "second_batch": d.negatives == "second" or d.negatives == "auto" and auto,
        "guidance": "field"
        if d.guidance == "field" or d.guidance == "auto" and auto
        else "negatives",
    }


def as_row(dataset) -> jax.ShapeDtypeStruct:
    """A sample as the bank keeps it."""
    return jax.ShapeDtypeStruct((int(np.prod(dataset.shape)),), dataset.dtype)


def build_flow(config, dataset, space, mesh) -> Parts:
    """The parts of the baseline. The bank holds all data, if it is to and fits on the device; otherwise nothing, and each step takes a batch of the stream."""
    if config.batch_size % mesh.size:
        raise UserError(
            f"--batch_size {config.batch_size} does not divide over {mesh.size} devices; give --batch_size {-(-config.batch_size // mesh.size) * mesh.size}"
        )
    d, whole, sample = config.drift, max(dataset.counts or [0]), as_row(dataset)
    on_device = d.bank_placement == "device" or (
        d.bank_placement == "auto"
        and banks.bank_bytes(dataset.n_classes, whole, 0, sample) <= d.bank_budget_gb * 1e9
    )
    per_class = whole if d.bank_per_class == "all" and on_device else 0
    model = flow.Flow(
        build_generator(config.model, dataset.shape, dataset.n_classes), config.denoise_timesteps
    )
    settings = flow.FlowConfig(
        batch_size=config.batch_size,
        n_classes=dataset.n_classes,
        class_dropout_prob=config.model.class_dropout_prob,
        t_sampler=config.flow.t_sampler,
        flip=config.data.flip and dataset.dtype == "uint8",
        sample_shape=tuple(dataset.shape),
    )
    schedule, optimizer = loop.build_optimizer(config.optim, config.max_steps)
    return Parts(
        config,
        dataset,
        mesh,
        model,
        optimizer,
        schedule,
        None,
        None,
        {},
        sample,
        per_class,
        0,
        False,
        space,
        settings,
    )


def classes_per_step(config, dataset, mesh) -> int:
    """N_c, which must go round the classes evenly and divide over the devices."""
    n_neg, n_classes, devices = config.drift.n_neg, dataset.n_classes, mesh.size
    n_c = config.batch_size // n_neg
    fits = [
        k
        for k in range(1, max(n_c, n_classes, devices) * devices + 1)
        if k % devices == 0 and (k <= n_classes or k % n_classes == 0)
    ]
    near = min(fits, key=lambda k: abs(k - n_c)) * n_neg
    if n_c > n_classes and n_c % n_classes:
        raise UserError(
            f"--batch_size {config.batch_size} / --drift.n_neg {n_neg} = {n_c} classes per step, but {dataset.name} has {n_classes} classes; give --batch_size {near}"
        )
    groups = config.optim.accumulate
    if n_c % groups:
        raise UserError(
            f"--optim.accumulate {groups}: it must divide the {n_c} classes of a step (--batch_size {config.batch_size} / --drift.n_neg {n_neg}); give {', '.join(str(k) for k in range(1, n_c + 1) if n_c % k == 0)}"
        )
    if not sharding.choose_layout(mesh, n_c // groups, n_neg):
        fewer = [
            k for k in range(1, devices) if (n_c // groups) % k == 0 and k % config.mesh.fsdp == 0
        ]
        hint = f", or --mesh.devices {fewer[-1]}" if fewer else ""
        rows = -(-n_neg // devices) * devices
        raise UserError(
            f"--batch_size {config.batch_size} = {n_c} classes of {n_neg}{f' in {groups} groups' if groups > 1 else ''}: neither the classes{' of a group' if groups > 1 else ''} nor the generated samples "
            f"of a class divide over {devices} devices; give --drift.n_neg {rows} --batch_size {n_c * rows}, {f'or --batch_size {near}' if groups == 1 else 'or fewer groups'}{hint}"
        )
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
    pushed, drawn = (
        d.bank_push * (1 + drift.flip),
        drift.n_c * (drift.n_pos + drift.n_unc) // devices,
    )
    reasons = {
        "raw samples have no features to keep": e.name == "none",
        "with --drift.bank_placement host each step would wait for the features of its new samples": d.bank_placement
        == "host"
        and d.bank_per_class != "all",
    }
    not_worth = {
        f"{size / 1e9:.1f} GB of features are over --encoder.cache_budget_gb {e.cache_budget_gb:g}": size
        > e.cache_budget_gb * 1e9,
        f"the {pushed} new images of a step are no fewer than the {drawn} reals that a device encodes": d.bank_per_class
        != "all"
        and pushed >= drawn,
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


def choose_monitor(name, encode, params, shape):
    """The feature set of the energy distance and the diversity: `name`, or the last one with one vector per image, rather not a spread: of a small map it may be the same for all images."""
    sets = jax.eval_shape(encode, params, jax.ShapeDtypeStruct((1, *shape), np.float32))
    vectors = [k for k, f in sets.items() if f.shape[1] == 1]
    if not vectors or name and name not in vectors:
        raise UserError(
            f"--drift.monitor {name or '(empty)'}: expected a feature set with one vector per image; this encoder has {', '.join(vectors) or 'none, add the raw sample with --encoder.name none+...'}"
        )
    return name or ([k for k in vectors if not k.endswith("_std")] or vectors)[-1]
