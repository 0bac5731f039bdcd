"""The training of the paper's feature encoder, a masked autoencoder (A.3); the step that matters is `models.mae_step.mae_step`."""

import dataclasses
import functools
import logging
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import data
from data import pipeline
from drifting.images import to_float
from drifting.state import TrainState, init_state, named_key
from models.encoders import mae_fields
from models.export import export_run
from models.mae import MAE, mae_params, random_mask, reconstruction_loss, unpatchify
from models.mae_step import MAEConfig, mae_step
from training import loop
from utils import compiler, distributed, processes, sharding
from utils import config as config_lib
from utils.checkpoint import Checkpoints
from utils.config import MAE_TRAINER
from utils.errors import UserError
from utils.figures import save_grid, save_panels
from utils.logging import read_metrics, setup_logging
from utils.memory import keep_freed_memory

log = logging.getLogger("train")

HELD_OUT = 5000  # samples of an evaluation, as many as there are up to this
DRAWN = 16  # images in a grid
# What a run may change when it goes on: not the data, the seed, the network or the averages that its checkpoints hold.
FIXED = (
    "dataset_name",
    "seed",
    "optim.ema",
    "mae.base_channels",
    "mae.layers",
    "mae.input_patch_size",
    "mae.patch_size",
)


# ---------------------------------------------------------------- config -> parts


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    config: object
    dataset: data.Dataset
    held_out: data.Dataset  # the data set itself where nothing is held out
    mesh: jax.sharding.Mesh
    model: MAE
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    step: MAEConfig

    @property
    def first_ema(self) -> str:
        return str(self.config.optim.ema[0])


def build(config, mesh) -> Parts:
    """All parts of a run, checked against the data and the devices; nothing is compiled or allocated."""
    m = config.mae
    dataset = data.load(
        config.dataset_name, config.data.split, config.data, facts_only=config.dry_run
    )
    held_out = (
        dataset if config.dry_run else as_drawn(data.load(config.dataset_name, "test", config.data))
    )
    height, width, channels = dataset.shape
    if height % (m.input_patch_size * m.patch_size) or width % (m.input_patch_size * m.patch_size):
        raise UserError(
            f"{dataset.name} is {height}x{width}, which does not divide into patches of --mae.patch_size {m.patch_size} x {m.patch_size} cells "
            f"of --mae.input_patch_size {m.input_patch_size}; give others, or --data.image_size"
        )
    if m.finetune_steps and dataset.n_classes == 1:
        raise UserError(
            f"--mae.finetune_steps {m.finetune_steps}: {dataset.name} has one class, there is nothing to classify; give --mae.finetune_steps 0"
        )
    if config.batch_size % mesh.size:
        near = -(-config.batch_size // mesh.size) * mesh.size
        raise UserError(
            f"--batch_size {config.batch_size} does not divide over {mesh.size} devices; give --batch_size {near}"
        )
    facts = {
        "in_channels": channels,
        "num_classes": dataset.n_classes,
        "layers": tuple(int(n) for n in m.layers.split(",")),
    }
    model = MAE(**{name: facts[name] if name in facts else m[name] for name in mae_fields()})
    step = MAEConfig(
        mask_prob=m.mask_prob,
        crop_area=m.crop_area,
        flip=config.data.flip and dataset.dtype == "uint8",
        finetune_from=config.max_steps - m.finetune_steps,
        class_weight=m.class_weight,
        class_warmup=m.class_warmup,
    )
    schedule, optimizer = loop.build_optimizer(config.optim, config.max_steps)
    return Parts(config, dataset, held_out, mesh, model, optimizer, schedule, step)


def make_state(parts: Parts) -> TrainState:
    """The state before the first step, on the mesh; it depends on the seed alone."""
    init = functools.partial(first_state, parts)
    return jax.jit(init, out_shardings=sharding.state_shardings(parts.mesh, jax.eval_shape(init)))()


def first_state(parts: Parts) -> TrainState:
    params = mae_params(parts.model, named_key(parts.config.seed, "init"))
    return init_state(params, parts.optimizer, parts.config.optim.ema, parts.config.seed)


def state_shapes(parts: Parts):
    """`make_state` without computing it: shapes and shardings."""
    state = jax.eval_shape(functools.partial(first_state, parts))
    return sharding.shapes_with_shardings(state, sharding.state_shardings(parts.mesh, state))


def make_step(parts: Parts):
    """step(state, images, labels) -> (state, metrics), jitted once, state donated."""
    gather = functools.partial(sharding.all_gather, parts.mesh)
    step = functools.partial(
        mae_step, model=parts.model, optimizer=parts.optimizer, config=parts.step, gather=gather
    )
    shardings = jax.tree.map(lambda a: a.sharding, state_shapes(parts))
    return jax.jit(
        step,
        donate_argnums=0,
        compiler_options=compiler.options(parts.mesh),
        out_shardings=(shardings, sharding.replicated(parts.mesh)),
    )


# ---------------------------------------------------------------- held-out samples


class Drawn:
    """Random access in which sample i is drawn once and for all, of a data set that draws each of its samples anew."""

    def __init__(self, source, augment):
        self.source, self.augment = source, augment

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.augment(self.source[index], np.random.default_rng(int(index)))


def as_drawn(dataset: data.Dataset) -> data.Dataset:
    return (
        dataclasses.replace(dataset, samples=Drawn(dataset.samples, dataset.augment), augment=None)
        if dataset.augment
        else dataset
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def measure(model, mask_prob, params, images, labels, seed, batch):
    """Per image: the loss of the hidden cells, whether the class is right with nothing hidden, and the three images of a grid: whole, seen, rebuilt."""
    x = to_float(images)
    cells = model.cells(x)
    mask = random_mask(named_key(seed, "held out", batch), cells.shape, model.patch_size, mask_prob)
    recon, _ = model.apply({"params": params}, x, mask, False)
    _, logits = model.apply({"params": params}, x, jnp.zeros_like(mask), False)
    views = (cells, cells * (1 - mask), cells * (1 - mask) + recon * mask)
    views = [unpatchify(view, model.input_patch_size) for view in views]
    return reconstruction_loss(recon, cells, mask), jnp.argmax(logits, -1) == labels, views


def evaluate(parts: Parts, params) -> dict:
    """The first average on the held-out samples: `held_out_loss_rec`, and `held_out_accuracy` once there is a classifier."""
    where = sharding.local_sharding(parts.mesh)
    size = -(-min(parts.config.batch_size, 256) // where.mesh.size) * where.mesh.size
    losses, right = [], []
    for i, (images, labels) in enumerate(
        pipeline.in_order(parts.held_out, size, 0, parts.config.data.workers)
    ):
        n = len(images)
        images, labels = (
            np.concatenate([a, np.repeat(a[-1:], size - n, 0)]) for a in (images, labels)
        )  # one program serves all
        images, labels = jax.device_put((images, labels), where)
        loss, correct, _ = measure(
            parts.model,
            parts.step.mask_prob,
            params,
            images,
            labels,
            np.uint32(parts.config.seed),
            np.uint32(i),
        )
        losses.append(np.asarray(loss)[:n])
        right.append(np.asarray(correct)[:n])
        if (i + 1) * size >= HELD_OUT:
            break
    values = {"held_out_loss_rec": float(np.mean(np.concatenate(losses)))}
    return values | (
        {"held_out_accuracy": float(np.mean(np.concatenate(right)))}
        if parts.config.mae.finetune_steps
        else {}
    )


def draw_grid(parts: Parts, params, path: pathlib.Path):
    """Held-out images, what is seen of them, and what is made of it. Latents are shown in false colours: three channels, [-3, 3]."""
    images, labels = next(
        pipeline.in_order(parts.held_out, min(DRAWN, len(parts.held_out.samples)), 0, 0)
    )
    _, _, views = measure(
        parts.model,
        parts.step.mask_prob,
        params,
        images,
        labels,
        np.uint32(parts.config.seed),
        np.uint32(0),
    )
    views = [np.asarray(view) for view in views]
    if parts.dataset.dtype != "uint8":
        views = [view[..., :3] / 3 if view.shape[-1] >= 3 else view[..., :1] / 3 for view in views]
    columns = min(8, len(images))
    rows = [
        view[i : i + columns]
        for i in range(0, len(images) - columns + 1, columns)
        for view in views
    ]
    save_grid(path, np.concatenate(rows), columns, ["whole", "seen", "rebuilt"] * (len(rows) // 3))


def draw_curves(folder: pathlib.Path):
    """curves.png, from metrics.jsonl."""
    records = read_metrics(folder / "metrics.jsonl")

    def series(**keys):
        found = {
            name: [(r["step"], r[key]) for r in records if r.get(key) is not None]
            for name, key in keys.items()
        }
        return {
            name.replace("_", " "): tuple(zip(*points)) for name, points in found.items() if points
        }

    panels = [
        (
            "reconstruction loss, hidden cells",
            series(training="loss_rec", held_out="held_out_loss_rec"),
            True,
        ),
        (
            "accuracy of the classifier",
            series(training="accuracy", held_out="held_out_accuracy"),
            False,
        ),
        (
            "norms and learning rate",
            series(gradient="grad_norm", update="update_norm", learning_rate="lr"),
            True,
        ),
        ("images per second", series(images="images_per_s"), False),
    ]
    save_panels(
        folder / "curves.png",
        [(title, curves, "step", "", log) for title, curves, log in panels if curves],
    )


# ---------------------------------------------------------------- the run


def check_same_run(before, config, where):
    loop.check_same_run(before, config, where, FIXED, ())


def open_run(config) -> pathlib.Path:
    """The run folder, made and writable; refused when it holds a run of another data set or network."""
    folder = loop.run_folder(config, "mae_")
    if loop.has_run(folder):
        check_same_run(
            config_lib.from_json(folder / "config.json", MAE_TRAINER).to_dict(), config, folder
        )
    return loop.make_folder(folder)


def checkpoint_tree(state: TrainState):
    ema = {f"ema_{decay}": tree for decay, tree in state.ema.items()}
    return {
        "state": {"step": state.step, "seed": state.seed},
        "params": state.params,
        "opt_state": state.opt_state,
    } | ema


class MAEJob(loop.Job):
    """What `utils.loop.train` drives: the state and the stream of images."""

    def __init__(self, parts: Parts, folder: pathlib.Path):
        self.parts, self.folder, self.config, self.samples = (
            parts,
            folder,
            parts.config,
            len(parts.dataset.samples),
        )

    def start(self, checkpoints):
        if checkpoints is None:
            self.state, self.position = make_state(self.parts), 0
            return 0
        tree, metadata, step = checkpoints.restore(checkpoint_tree(state_shapes(self.parts)))
        check_same_run(metadata["config"], self.config, checkpoints.folder.parent)
        ema = {
            name.removeprefix("ema_"): item
            for name, item in tree.items()
            if name.startswith("ema_")
        }
        self.state = TrainState(
            tree["state"]["step"], tree["state"]["seed"], tree["params"], tree["opt_state"], ema
        )
        self.position = metadata["position"]
        return step

    def prepare(self, step):
        c, rank, ranks = self.config, jax.process_index(), jax.process_count()
        self.stream = pipeline.stream(
            self.parts.dataset,
            c.seed,
            c.batch_size // ranks,
            self.position,
            rank,
            ranks,
            c.data.workers,
        )
        self.step_fn = make_step(self.parts)

    def fetch(self):
        where = sharding.batch_sharding(self.parts.mesh)
        return tuple(jax.make_array_from_process_local_data(where, a) for a in next(self.stream))

    def advance(self, batch):
        self.state, metrics = self.step_fn(self.state, *batch)
        self.position += self.config.batch_size
        return metrics

    def learning_rate(self, step):
        return float(self.parts.schedule(step - 1))

    def evaluate(self, step, run):
        values = evaluate(
            self.parts, sharding.local_copy(self.parts.mesh, self.state.ema[self.parts.first_ema])
        )
        run.log(step, values)
        log.info("step %d: %s", step, ", ".join(f"{k} {v:.4g}" for k, v in values.items()))

    def draw(self, step):
        path = self.folder / "samples" / f"step_{step:08d}.png"
        params = sharding.local_copy(self.parts.mesh, self.state.ema[self.parts.first_ema])
        if processes.is_first():
            draw_grid(self.parts, params, path)
            draw_curves(self.folder)
        return path

    def checkpoint(self):
        dataset = {
            "name": self.parts.dataset.name,
            "shape": self.parts.dataset.shape,
            "dtype": self.parts.dataset.dtype,
        }
        model = {name: getattr(self.parts.model, name) for name in sorted(mae_fields())}
        facts = {"mae": model, "dataset": dataset, "ema": [str(d) for d in self.config.optim.ema]}
        return checkpoint_tree(self.state), facts | {
            "position": self.position,
            "config": self.config.to_dict(),
        }


def report(parts: Parts) -> str:
    """What the run takes, known before it starts."""
    c, shapes, mb = parts.config, state_shapes(parts), loop.megabytes_per_device
    count = sum(a.size for a in jax.tree.leaves(shapes.params))
    rows = {
        "data": f"{parts.dataset.name}: {len(parts.dataset.samples):,} samples of {parts.dataset.shape}, {parts.dataset.n_classes} classes",
        "encoder": f"masked autoencoder, {count:,} parameters, of which {sum(a.size for a in jax.tree.leaves(shapes.params['encoder'])):,} encode",
        "steps": f"{c.max_steps:,}, with the classifier from step {parts.step.finetune_from:,} on"
        if c.mae.finetune_steps
        else f"{c.max_steps:,}",
        "devices": f"{parts.mesh.size} x {parts.mesh.devices.flat[0].device_kind}, mesh data {parts.mesh.shape['data']} x fsdp {parts.mesh.shape['fsdp']}",
        "per device": f"parameters {mb(shapes.params)}, optimiser {mb(shapes.opt_state)}, {len(shapes.ema)} EMA {mb(shapes.ema)}",
    }
    return "\n".join(f"{name:12}{text}" for name, text in rows.items())


def train(parts: Parts, folder: pathlib.Path):
    loop.train(MAEJob(parts, folder), folder)
    if parts.config.mae.export and processes.is_first():
        export_run(folder, parts.config.mae.export)
        log.info(
            "%s: the encoder in the published format, for --encoder.path", parts.config.mae.export
        )


def main(flag_values):
    setup_logging()
    with distributed.job(config_lib.all_flags(flag_values).distributed):
        run(flag_values)


def run(flag_values):
    """The program, in each process of the job."""
    folder = loop.run_folder(config_lib.all_flags(flag_values), "mae_")
    saved = (
        config_lib.from_json(folder / "config.json", MAE_TRAINER) if loop.has_run(folder) else None
    )
    config = config_lib.resolve(flag_values, saved, MAE_TRAINER)
    keep_freed_memory()
    mesh = sharding.make_mesh(config.mesh.devices, config.mesh.fsdp)
    parts = build(config, mesh)
    if (
        config.load_dir
        and not (source := Checkpoints(pathlib.Path(config.load_dir) / "checkpoints")).steps()
    ):
        source.restore({})  # says what is missing
    if config.dry_run:
        if processes.is_first():
            print(
                config_lib.explain(config, flag_values, saved, MAE_TRAINER),
                report(parts),
                sep="\n\n",
            )
        return
    train(parts, open_run(config))
