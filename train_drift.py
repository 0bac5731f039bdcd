"""Trains a one-step image generator by drifting; the step that matters is `drifting.step.train_step`.

    python train_drift.py --dataset_name digits            the run goes to runs/digits; the same command resumes it
    python train_drift.py --dataset_name digits --dry_run  what would be run, and what it takes
"""

import dataclasses
import functools
import logging
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import data
from data import pipeline
from drifting import bank as banks
from drifting.config import DriftConfig
from drifting.state import TrainState, init_state, named_key
from drifting.step import drift_step, train_step
from models.build import build_generator, describe
from models.dit import count_parameters, init_params
from utils import config as config_lib, sharding
from utils.checkpoint import Checkpoints, StopSignal
from utils.errors import UserError

log = logging.getLogger("train")


# ---------------------------------------------------------------- config -> parts

@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of. encode(encoder_params, images) -> {name: [B,T,D]}."""

    config: object
    dataset: data.Dataset
    mesh: jax.sharding.Mesh
    model: object
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    drift: DriftConfig
    encode: object
    encoder_params: object
    per_class: int  # the bank's queues
    pool: int
    bank_on_host: bool

    @property
    def whole_bank(self) -> bool:
        return self.config.drift.bank_per_class == "all"

    @property
    def bank_bytes(self) -> int:
        return banks.bank_bytes(self.dataset.n_classes, self.per_class, self.pool, self.dataset.shape, self.dataset.dtype)


def build(config, dataset, mesh) -> Parts:
    """All parts of a run, checked against the data and the devices; nothing is compiled or allocated, but for a trained encoder."""
    d, n_classes = config.drift, dataset.n_classes
    n_c = config.batch_size // d.n_neg
    if n_c > n_classes and n_c % n_classes:
        raise UserError(f"--batch_size {config.batch_size} / --drift.n_neg {d.n_neg} = {n_c} classes per step, but {dataset.name} has {n_classes}; "
                        f"give --batch_size {n_classes * d.n_neg}, or a multiple of it")  # fmt: skip
    if n_c % mesh.size:
        fits = max(k for k in range(1, mesh.size + 1) if n_c % k == 0 and k % mesh.shape["fsdp"] == 0 or k == 1)
        raise UserError(f"--batch_size {config.batch_size} = {n_c} classes of {d.n_neg} does not divide over {mesh.size} devices; "
                        f"give --batch_size {max(n_c // mesh.size, 1) * mesh.size * d.n_neg}, or --mesh.devices {fits}")  # fmt: skip
    per_class = max(dataset.counts) if d.bank_per_class == "all" else d.bank_per_class
    if d.n_pos == "all":
        n_pos = per_class
    else:
        n_pos = d.n_pos
        if dataset.counts:
            pipeline.check_counts(dataset, dataset.counts, n_pos, "--drift.n_pos")
    pool = 0 if d.bank_per_class == "all" else d.bank_global
    model = build_generator(config.model, dataset.shape, n_classes)
    encode, encoder_params = build_encoder(config.encoder)
    drift = DriftConfig(n_classes=n_classes, n_c=n_c, n_neg=d.n_neg, n_pos=n_pos, n_unc=d.n_unc, alpha_min=d.alpha_min, alpha_max=d.alpha_max,
                        alpha_power=d.alpha_power, no_cfg_frac=d.no_cfg_frac, temperatures=tuple(d.temperatures), field=d.field, monitor=d.monitor,
                        style_shape=(model.noise_coords, model.noise_classes), class_dropout_prob=config.model.class_dropout_prob, flip=config.data.flip)  # fmt: skip
    size = banks.bank_bytes(n_classes, per_class, pool, dataset.shape, dataset.dtype)
    on_host = d.bank_placement == "host" or (d.bank_placement == "auto" and size > d.bank_budget_gb * 1e9)
    schedule, optimizer = build_optimizer(config.optim, config.max_steps)
    return Parts(config, dataset, mesh, model, optimizer, schedule, drift, encode, encoder_params, per_class, pool, on_host)


def build_optimizer(o, max_steps):
    """AdamW with warm-up and clipping by the global norm (A.8): (learning rate by step, optax transformation)."""
    if o.schedule == "cosine":
        schedule = optax.warmup_cosine_decay_schedule(0.0, o.learning_rate, o.warmup_steps, max_steps, o.end_learning_rate)
    else:
        schedule = optax.linear_schedule(0.0, o.learning_rate, o.warmup_steps) if o.warmup_steps else optax.constant_schedule(o.learning_rate)
    return schedule, optax.chain(optax.clip_by_global_norm(o.clip), optax.adamw(schedule, o.b1, o.b2, weight_decay=o.weight_decay))


def build_encoder(e):
    """(encode, params) of the frozen feature encoder; `none` compares raw samples."""
    if e.name == "none":
        return lambda params, images: {"global": images.reshape(images.shape[0], 1, -1)}, {}
    from models.encoders import load_encoder

    encode, params, _ = load_encoder(e.path or e.name)
    return encode, params


def make_state(parts: Parts) -> TrainState:
    """The state before the first step, on the mesh; it depends on the seed alone."""
    def init():
        params = init_params(parts.model, named_key(parts.config.seed, "init"))
        return init_state(params, parts.optimizer, parts.config.optim.ema, parts.config.seed)

    return jax.jit(init, out_shardings=sharding.state_shardings(parts.mesh, jax.eval_shape(init)))()


def state_shapes(parts: Parts):
    """`make_state` without computing it: shapes and shardings."""
    state = jax.eval_shape(lambda: init_state(init_params(parts.model, jax.random.key(0)), parts.optimizer, parts.config.optim.ema, 0))
    return sharding.shapes(state, sharding.state_shardings(parts.mesh, state))


def make_step(parts: Parts, first_step: int = 0):
    """step(state, bank, fresh, encoder_params) -> (state, bank, metrics), jitted once, state and bank donated. first_step: of the state that it starts from."""
    def generate(params, noise, labels, alpha, style):
        return parts.model.apply({"params": params}, noise, labels, alpha, style)

    networks = dict(generate=generate, optimizer=parts.optimizer, config=parts.drift)
    if not parts.bank_on_host:
        def step(state, bank, fresh, encoder_params):
            return train_step(state, bank, fresh, place=sharding.place_batch(parts.mesh), encode=functools.partial(parts.encode, encoder_params), **networks)

        return jax.jit(step, donate_argnums=(0, 1))

    def step_on_batch(state, batch, encoder_params):
        return drift_step(state, batch, encode=functools.partial(parts.encode, encoder_params), **networks)

    jitted, host = jax.jit(step_on_batch, donate_argnums=(0,)), HostBank(parts, first_step)

    def step(state, bank, fresh, encoder_params):
        bank, batch = host(bank, fresh)
        state, metrics = jitted(state, jax.device_put(batch, sharding.batch_sharding(parts.mesh)), encoder_params)
        return state, bank, metrics

    return step


# ---------------------------------------------------------------- the bank

class HostBank:
    """Pushes and draws in host memory, by the same programs as on the device, run on the CPU: the batches are the same to the bit."""

    def __init__(self, parts: Parts, first_step: int = 0):
        self.cpu, self.step = jax.local_devices(backend="cpu")[0], first_step
        self.seed = np.uint32(parts.config.seed)
        shapes = {"images": jax.ShapeDtypeStruct((parts.dataset.n_classes, parts.per_class), np.uint8), "pool": jax.ShapeDtypeStruct((parts.pool,), np.uint8)}
        self.push_slots = jax.jit(lambda counters, labels: banks.push_slots(shapes | counters, labels))
        self.draw = jax.jit(lambda counters, seed, step: banks.draw(shapes | counters, seed, step, parts.drift))

    def push(self, bank, images, labels):
        counters = {k: v for k, v in bank.items() if k not in ("images", "pool")}
        slots = self._on_cpu(self.push_slots, counters, np.asarray(labels, np.int32))
        return banks.push_host(bank, slots, images, labels)

    def __call__(self, bank, fresh):
        bank = bank if fresh is None else self.push(bank, *fresh)
        counters = {k: v for k, v in bank.items() if k not in ("images", "pool")}
        plan = self._on_cpu(self.draw, counters, self.seed, np.int32(self.step))
        self.step += 1
        return bank, banks.gather(bank, plan)

    def _on_cpu(self, function, *args):
        with jax.default_device(self.cpu), jax.transfer_guard("allow"):
            return jax.device_get(function(*args))


def fill_bank(parts: Parts):
    """The bank before the first step, as NumPy arrays, and how many samples of the stream it took.

    A whole bank holds the data set in its order. Another takes the stream until every class, and the pool, hold what a step draws from them.
    """
    dataset, bank = parts.dataset, banks.empty_bank(parts.dataset.n_classes, parts.per_class, parts.pool, parts.dataset.shape, parts.dataset.dtype)
    if parts.whole_bank:
        images, labels = pipeline.everything(dataset)
        for k in range(dataset.n_classes):
            of_class = images[labels == k]
            bank["images"][k, : len(of_class)] = of_class
            bank["filled"][k] = len(of_class)
        bank["next"][:] = bank["filled"] % parts.per_class
        return bank, 0
    host, position = HostBank(parts), 0
    needed = min(parts.drift.n_pos, parts.per_class)
    for images, labels in pipeline.stream(dataset, parts.config.seed, parts.config.drift.bank_push):
        bank = host.push(bank, images, labels)
        position += len(labels)
        enough = bank["filled"].min() >= needed and bank["pool_filled"] >= min(parts.pool, max(parts.drift.n_unc, parts.drift.n_pos))
        if enough and (parts.config.drift.n_pos != "all" or position >= len(dataset.source)):
            return bank, position
        if position > len(dataset.source) + len(labels):  # every sample was seen
            if parts.config.drift.n_pos == "all" and bank["filled"].min() > 0:
                return bank, position
            pipeline.check_counts(dataset, bank["filled"], needed if parts.config.drift.n_pos != "all" else 1, "--drift.n_pos")


# ---------------------------------------------------------------- the run

def open_run(config) -> pathlib.Path:
    """The run folder, made and writable; refused when it holds a run of another data set or model."""
    folder = pathlib.Path(config.save_dir or f"runs/{config.dataset_name.replace('/', '_').replace(':', '_')}")
    saved = folder / "config.json"
    if saved.exists():
        before = config_lib.flatten(config_lib.from_json(saved).to_dict())
        now = config_lib.flatten(config.to_dict())
        changed = {k: (before[k], v) for k, v in now.items() if before[k] != v}
        fixed = [k for k in changed if k in ("dataset_name", "seed") or k.startswith(("model.", "drift.bank_", "encoder.")) and k not in FREE]
        if fixed and (folder / "checkpoints").exists():
            k = fixed[0]
            raise UserError(f"--save_dir {folder} holds a run with {k} = {changed[k][0]}, but {k} = {changed[k][1]} was asked for; "
                            f"give another --save_dir, or --{k} {changed[k][0]}")  # fmt: skip
        for k in changed.keys() - {"save_dir", "dry_run"}:
            log.warning("%s: %s was %s and is now %s", folder, k, *changed[k])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
        (folder / "samples").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"--save_dir {folder}: cannot write there ({error.strerror}); give a folder that can be written") from None
    config_lib.save_json(config, saved)
    return folder


FREE = ("model.preset", "model.remat", "model.attention", "model.use_bf16", "model.attn_fp32", "drift.bank_placement", "drift.bank_budget_gb")


def checkpoint_tree(state: TrainState, bank):
    """What a checkpoint holds, by separately readable items."""
    ema = {f"ema_{decay}": tree for decay, tree in state.ema.items()}
    return {"state": {"step": state.step, "seed": state.seed}, "params": state.params, "opt_state": state.opt_state, "bank": bank} | ema


def checkpoint_shapes(parts: Parts):
    """`checkpoint_tree` of these parts, as shapes and shardings."""
    where = None if parts.bank_on_host else sharding.replicated(parts.mesh)
    bank = jax.eval_shape(lambda: banks.empty_bank(parts.dataset.n_classes, parts.per_class, parts.pool, parts.dataset.shape, parts.dataset.dtype))
    return checkpoint_tree(state_shapes(parts), jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), bank))


def restore(parts: Parts, checkpoints: Checkpoints):
    """(state, bank, position in the stream) of the newest readable checkpoint, on this mesh."""
    tree, metadata, _ = checkpoints.restore(checkpoint_shapes(parts))
    ema = {name.removeprefix("ema_"): item for name, item in tree.items() if name.startswith("ema_")}
    return TrainState(tree["state"]["step"], tree["state"]["seed"], tree["params"], tree["opt_state"], ema), tree["bank"], metadata["position"]


def report(parts: Parts) -> str:
    """What the run takes, known before it starts."""
    c, size = parts.config, lambda tree: sum(np.prod(sharding_shape(a)) * a.dtype.itemsize for a in jax.tree.leaves(tree))
    sharding_shape = lambda a: a.sharding.shard_shape(a.shape)
    shapes = state_shapes(parts)
    mb = lambda n: f"{n / 1e6:.1f} MB"
    return "\n".join([
        f"data        {parts.dataset.name}: {len(parts.dataset.source)} samples of {parts.dataset.shape}, {parts.dataset.n_classes} classes",
        f"generator   {c.model.name}, {count_parameters(shapes.params):,} parameters",
        f"step        {parts.drift.n_c} classes x ({parts.drift.n_neg} generated, {parts.drift.n_pos} positive, {parts.drift.n_unc} unconditional); {c.max_steps:,} steps",
        f"devices     {parts.mesh.size} x {parts.mesh.devices.flat[0].device_kind}, mesh data {parts.mesh.shape['data']} x fsdp {parts.mesh.shape['fsdp']}",
        f"per device  parameters {mb(size(shapes.params))}, optimiser {mb(size(shapes.opt_state))}, {len(shapes.ema)} EMA {mb(size(shapes.ema))}",
        f"bank        {mb(parts.bank_bytes)} {'in host memory' if parts.bank_on_host else 'on each device'}",
    ])  # fmt: skip


def main(flag_values):
    config = config_lib.resolve(flag_values)
    mesh = sharding.make_mesh(config.mesh.devices, config.mesh.fsdp)
    dataset = data.load(config.dataset_name, config.data.split)
    parts = build(config, dataset, mesh)
    if config.dry_run:
        print(config_lib.explain(config, flag_values), report(parts), sep="\n\n")
        return
    train(parts, open_run(config))


def train(parts: Parts, folder: pathlib.Path):
    """The loop: resume or start, step, log, save, until max_steps or a signal."""
    config, checkpoints = parts.config, Checkpoints(folder / "checkpoints", parts.config.keep_checkpoints, parts.config.keep_interval)
    if checkpoints.steps():
        state, bank, position = restore(parts, checkpoints)
        log.info("resumed %s at step %d", folder, int(state.step))
    else:
        state, (bank, position) = make_state(parts), fill_bank(parts)
        bank = bank if parts.bank_on_host else jax.device_put(bank, sharding.replicated(parts.mesh))
    start = int(state.step)
    if start >= config.max_steps:
        log.info("%s is complete at step %d; raise --max_steps to go on, or give another --save_dir", folder, start)
    stream = None if parts.whole_bank else pipeline.stream(parts.dataset, config.seed, config.drift.bank_push, position)
    encoder_params = jax.device_put(parts.encoder_params, sharding.replicated(parts.mesh))
    step_fn, run = make_step(parts, start), RunLog(folder, config.wandb, start)
    collapse = CollapseWatch(config)

    def save(step, wait=False):
        check_finite(step, jax.device_get(metrics))
        metadata = {"generator": describe(parts.model), "position": position, "ema": list(state.ema), "config": config.to_dict(),
                    "dataset": {"name": parts.dataset.name, "class_names": parts.dataset.class_names, "shape": parts.dataset.shape}}  # fmt: skip
        checkpoints.save(step, checkpoint_tree(state, bank), metadata, wait=wait)

    with StopSignal() as stop, run.progress(start, config.max_steps) as bar:
        waited, since, since_step = 0.0, time.perf_counter(), start
        for step in range(start + 1, config.max_steps + 1):
            with jax.transfer_guard("disallow"):
                before = time.perf_counter()
                fresh = next_fresh(parts, stream)
                waited += time.perf_counter() - before
                state, bank, metrics = step_fn(state, bank, fresh, encoder_params)
            position += 0 if fresh is None else config.drift.bank_push
            last = step == config.max_steps or stop.requested

            if step % config.log_interval == 0 or last or step == start + 1:
                values = {k: float(v) for k, v in jax.device_get(metrics).items()}  # waits for the device
                check_finite(step, values)
                seconds = time.perf_counter() - since
                rate = config.batch_size * (step - since_step) / seconds
                if step % config.log_interval == 0 or last:
                    timing = {"images_per_s": rate, "seconds": seconds, "data_wait": waited / seconds}
                    run.log(step, values | {"lr": float(parts.schedule(step - 1))} | timing)
                    collapse.check(step, values["diversity"])
                bar.show(step, values, rate)
                waited, since, since_step = 0.0, time.perf_counter(), step
            if step % config.save_interval == 0 or last:
                save(step)
            if config.sample_interval and step % config.sample_interval == 0 or last:
                draw_figures(parts, folder, state, step)
            if config.eval_interval and (step % config.eval_interval == 0 or step == config.max_steps):
                run.log_eval(step, evaluate_state(parts, folder, state, step))
            if last:
                break
        checkpoints.close()
