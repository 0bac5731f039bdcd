"""The training of a one-step generator by drifting; the step that matters is `drifting.step.train_step`."""

import functools
import inspect
import logging
import pathlib

import jax
import numpy as np

import data
from baselines import flow
from drifting import bank as banks
from drifting.fields import FIELDS
from drifting.fields.learned import init_field_state
from drifting.state import TrainState, init_state, named_key
from drifting.step import drift_step, train_step
from evaluation import evaluate
from evaluation.fid_csv import append_row, read_rows, scores
from evaluation.load_reference import load_reference as reference_of
from models.build import describe
from models.dit import count_parameters, init_params
from models.sampling import generate
from models.weights import load_generator
from training import loop
from training.parts import Parts, build
from training.reals import HostBank, fill_bank, next_fresh, place_bank, reals
from utils import compiler, distributed, processes, sharding
from utils import config as config_lib
from utils.checkpoint import Checkpoints
from utils.errors import UserError
from utils.figures import save_curves, save_grid
from utils.logging import read_metrics, setup_logging
from utils.memory import keep_freed_memory

log = logging.getLogger("train")


# ---------------------------------------------------------------- parts -> state, step


def make_state(parts: Parts) -> TrainState:
    """The state before the first step, on the mesh; it depends on the seed, and on the weights of --init_from, alone."""
    given = given_params(parts) if parts.config.init_from else None
    return jax.jit(
        functools.partial(new_state, parts),
        out_shardings=jax.tree.map(lambda a: a.sharding, state_shapes(parts)),
    )(given)


def new_state(parts: Parts, params=None) -> TrainState:
    c = parts.config
    params = params or init_params(parts.model, named_key(c.seed, "init"))
    field = None
    if (
        c.drift.field == "learned" and parts.encode
    ):  # a dry run has no encoder, and so does not know its sizes
        sets = jax.eval_shape(
            parts.encode,
            parts.encoder_params,
            jax.ShapeDtypeStruct((1, *parts.dataset.shape), np.float32),
        )
        field = init_field_state(
            named_key(c.seed, "field"),
            [f.shape[2] for f in sets.values()],
            c.drift.field_width,
            c.drift.field_projection,
            c.drift.field_ema,
        )
    return init_state(params, parts.optimizer, c.optim.ema, c.seed, field)


def given_params(parts: Parts):
    """The parameters of --init_from, checked to be of this generator."""
    where = parts.config.init_from
    _, params, _ = load_generator(where)
    expected = jax.tree.map(
        lambda a: a.shape, jax.eval_shape(lambda: init_params(parts.model, jax.random.key(0)))
    )
    found = jax.tree.map(np.shape, params)
    if expected != found:
        a, b = (config_lib.flatten(t) for t in (expected, found))
        name = next(k for k in sorted(a | b) if a.get(k) != b.get(k))
        raise UserError(
            f"--init_from {where}: {name} is {b.get(name, 'absent')} there and {a.get(name, 'absent')} in this generator; give its --model flags, or other weights"
        )
    return params


def state_shapes(parts: Parts):
    """`make_state` without computing it: shapes and shardings."""
    state = jax.eval_shape(functools.partial(new_state, parts))
    where = sharding.state_shardings(parts.mesh, state)
    where = where.replace(
        field=jax.tree.map(lambda _: sharding.replicated(parts.mesh), state.field)
    )  # small
    return sharding.shapes_with_shardings(state, where)


def jit_step(parts: Parts):
    """The program of a step, state and bank donated: (state, bank, fresh, encoder_params) -> (state, bank, metrics), or, with the bank in host memory, (state, batch, encoder_params) -> (state, metrics)."""
    if parts.baseline:
        return jit_flow_step(parts)

    def generate(params, noise, labels, alpha, style):
        params = sharding.all_gather(parts.mesh, params)  # fsdp: weights travel, samples stay
        return parts.model.apply({"params": params}, noise, labels, alpha, style)

    shardings = jax.tree.map(lambda a: a.sharding, state_shapes(parts))
    networks = dict(
        generate=generate, optimizer=parts.optimizer, config=parts.drift, layout=parts.layout
    )
    if not parts.bank_on_host:

        def step(state, bank, fresh, encoder_params):
            store = functools.partial(parts.store, encoder_params)
            return train_step(
                state,
                bank,
                fresh,
                encode=functools.partial(parts.encode, encoder_params),
                store=store,
                **networks,
            )

        everywhere = sharding.replicated(parts.mesh)
        return jax.jit(
            step,
            donate_argnums=(0, 1),
            compiler_options=compiler.options(parts.mesh),
            out_shardings=(shardings, everywhere, everywhere),
        )

    def step_on_batch(state, batch, encoder_params):
        return drift_step(
            state, batch, encode=functools.partial(parts.encode, encoder_params), **networks
        )

    return jax.jit(
        step_on_batch,
        donate_argnums=(0,),
        compiler_options=compiler.options(parts.mesh),
        out_shardings=(shardings, sharding.replicated(parts.mesh)),
    )


def jit_flow_step(parts: Parts):
    """The same of --objective flow."""

    def velocity(params, *inputs):
        return parts.model.velocity(sharding.all_gather(parts.mesh, params), *inputs)

    place = lambda tree: jax.lax.with_sharding_constraint(tree, sharding.batch_sharding(parts.mesh))
    step = functools.partial(
        flow.train_step,
        velocity=velocity,
        optimizer=parts.optimizer,
        config=parts.baseline,
        place=place,
    )
    shardings, everywhere = (
        jax.tree.map(lambda a: a.sharding, state_shapes(parts)),
        sharding.replicated(parts.mesh),
    )
    return jax.jit(
        lambda state, bank, fresh, encoder_params: step(state, bank, fresh),
        donate_argnums=(0, 1),
        compiler_options=compiler.options(parts.mesh),
        out_shardings=(shardings, everywhere, everywhere),
    )


def make_step(parts: Parts, first_step: int = 0):
    """step(state, bank, fresh, encoder_params) -> (state, bank, metrics), jitted once, state and bank donated. first_step: of the state that it starts from."""
    jitted = jit_step(parts)
    if not parts.bank_on_host:
        return jitted
    host = HostBank(parts, first_step)

    def step(state, bank, fresh, encoder_params):
        bank, batch = host(bank, fresh)
        state, metrics = jitted(state, sharding.put(batch, parts.layout.groups_sharding), encoder_params)
        return state, bank, metrics

    return step


# ---------------------------------------------------------------- the run

# What a run may change when it goes on: not the data, the seed, the networks, the bank or the averages that its checkpoints hold.
FIXED = (
    "dataset_name",
    "seed",
    "objective",
    "optim.ema",
    "model.",
    "drift.bank_",
    "encoder.",
    "data.stream",
    "drift.field_",
)
FREE = (
    "model.preset",
    "model.unroll",
    "model.remat",
    "model.attention",
    "model.use_bf16",
    "model.attn_fp32",
    "drift.bank_placement",
    "drift.bank_budget_gb",
    "drift.field_lr",
)


def check_same_run(before, config, where):
    learned = "learned" in (
        config_lib.flatten(before)["drift.field"],
        config.drift.field,
    )  # its parameters are in the checkpoint
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
    bank = {
        k: v
        for k, v in bank.to_dict().items()
        if k not in ("images", "pool") or not (parts.cached and parts.whole_bank)
    }
    return (
        {
            "state": {"step": state.step, "seed": state.seed},
            "params": state.params,
            "opt_state": state.opt_state,
            "bank": bank,
        }
        | ema
        | field
    )


def checkpoint_shapes(parts: Parts):
    """`checkpoint_tree` of these parts, as shapes and shardings."""
    where = None if parts.bank_on_host else sharding.replicated(parts.mesh)
    bank = jax.eval_shape(
        lambda: banks.empty_bank(parts.dataset.n_classes, parts.per_class, parts.pool, parts.sample)
    )
    return checkpoint_tree(
        parts,
        state_shapes(parts),
        jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), bank),
    )


def restore(parts: Parts, checkpoints: Checkpoints):
    """(state, bank, position in the stream) of the newest readable checkpoint, on this mesh."""
    tree, metadata, _ = checkpoints.restore(checkpoint_shapes(parts))
    check_same_run(metadata["config"], parts.config, checkpoints.folder.parent)
    before, now = (
        (d or {}).get("vae_weights")
        for d in (metadata["dataset"].get("latents"), parts.dataset.latents)
    )
    if before != now:
        raise UserError(
            f"{checkpoints.folder.parent} holds a run on latents of a VAE with the checksum {before}, now {now}; give its VAE with --vae, or another --save_dir"
        )
    ema = {
        name.removeprefix("ema_"): item for name, item in tree.items() if name.startswith("ema_")
    }
    state, bank = (
        TrainState(
            tree["state"]["step"],
            tree["state"]["seed"],
            tree["params"],
            tree["opt_state"],
            ema,
            tree.get("field"),
        ),
        tree["bank"],
    )
    bank = (
        place_bank(parts, fill_bank(parts)[0])
        if parts.cached and parts.whole_bank
        else banks.Bank.from_dict(bank)
    )
    return state, bank, metadata["position"]


def report(parts: Parts) -> str:
    """What the run takes, known before it starts."""
    c, shapes, mb = parts.config, state_shapes(parts), loop.megabytes_per_device
    rows = {
        "data": f"{parts.dataset.name}: {len(parts.dataset.samples):,} samples of {parts.dataset.shape}, {parts.dataset.n_classes} classes",
        "generator": f"{c.model.name}, {count_parameters(shapes.params):,} parameters",
        "step": f"{c.batch_size} samples of a rectified flow"
        if parts.baseline
        else f"{parts.drift.n_c} classes x ({parts.drift.n_neg} generated, {parts.drift.n_pos} positive, {parts.drift.n_unc} unconditional){f' in {parts.drift.groups} groups' if parts.drift.groups > 1 else ''}; {parts.layout}",
        "steps": f"{c.max_steps:,}",
        "devices": f"{parts.mesh.size} x {parts.mesh.devices.flat[0].device_kind}, mesh data {parts.mesh.shape['data']} x fsdp {parts.mesh.shape['fsdp']}",
        "per device": f"parameters {mb(shapes.params)}, optimiser {mb(shapes.opt_state)}, {len(shapes.ema)} EMA {mb(shapes.ema)}",
        "field": describe_field(parts, shapes),
        "bank": f"{parts.bank_bytes / 1e6:.1f} MB of {'features' if parts.cached else 'samples'}{'' if parts.encode else ' (of features, if they are kept, which takes the encoder to know)'} {'in host memory' if parts.bank_on_host else 'on each device'}",
    }
    return "\n".join(f"{name:12}{text}" for name, text in rows.items())


def describe_field(parts: Parts, shapes) -> str:
    d = parts.drift
    options = ", ".join(
        f"{k} {v}"
        for k, v in d.field_options.items()
        if v != inspect.signature(FIELDS[d.field]).parameters[k].default
    )
    learned = (
        f"{count_parameters(shapes.field['params']):,} parameters of its own"
        if shapes.field
        else ""
    )
    return ", ".join(
        filter(
            None, (d.field, options, learned, "a second generated batch" if d.second_batch else "")
        )
    )


class CollapseWatch:
    """Warns when the samples of a class stay all alike: every sample then gets the same drift, and nothing separates them again."""

    PATIENCE = 3  # log lines in a row

    def __init__(self, ratio: float, stop: bool):
        self.ratio, self.stop, self.low = ratio, stop, 0

    def check(self, step: int, diversity: float):
        """diversity: mean distance between the generated samples of a class, over that between its reals. Raises UserError if the run shall stop."""
        self.low = self.low + 1 if diversity < self.ratio else 0
        if self.low == self.PATIENCE:
            message = (
                f"collapse: at step {step} the samples of a class are {diversity:.3f} times as far apart as its reals, under --collapse_ratio {self.ratio} "
                f"for {self.PATIENCE} log lines; a lower learning rate, a longer warm-up, more --drift.n_neg, or --model.zero_init_output 0 may help"
            )
            if self.stop:
                raise UserError(message)
            log.warning(message)


def draw_figures(parts: Parts, folder: pathlib.Path, state: TrainState, step: int):
    """samples/step_*.png, eight of each of the first sixteen classes by the first EMA, and curves.png. Returns the path of the first."""
    classes = np.arange(min(parts.dataset.n_classes, 16))
    params = sharding.local_copy(parts.mesh, state.ema[parts.first_ema])
    grid = folder / "samples" / f"step_{step:08d}.png"
    if not processes.is_first():
        return grid
    samples = generate(
        parts.model, params, np.repeat(classes, 8), 1.0, parts.config.seed, **parts.sampling
    )
    samples = map(parts.space.decode, samples) if parts.space else samples
    save_grid(
        grid,
        np.concatenate(list(samples)),
        columns=8,
        row_labels=[parts.dataset.class_names[k] for k in classes],
    )
    rows = [
        {"step": row["step"]} | scores(row)
        for row in read_rows(folder / "fid.csv")
        if row["cfg_scale"] == 1
    ]
    save_curves(
        folder / "curves.png",
        read_metrics(folder / "metrics.jsonl") + rows,
        collapse_ratio=parts.config.collapse_ratio,
    )
    return grid


def load_reference(parts: Parts):
    """What evaluations while training are held against; it depends on the configuration alone."""
    c = parts.config
    return reference_of(
        c.dataset_name,
        features=c.features,
        inception_weights=c.inception_weights,
        fid_stats=c.fid_stats,
        data_options=c.data,
        shape=parts.space.image_shape(parts.dataset.shape) if parts.space else parts.dataset.shape,
        **parts.sampling,
    )


def score(parts: Parts, folder: pathlib.Path, state: TrainState, step: int, reference):
    """One row of fid.csv, by the first EMA; of fewer samples than a published figure, and named so."""
    settings = {
        "step": step,
        "ema": parts.first_ema,
        "cfg_scale": 1.0,
        "seed": parts.config.seed,
    } | flow.settings(parts.model)
    params = sharding.local_copy(parts.mesh, state.ema[parts.first_ema])
    row = settings | evaluate.evaluate(
        parts.model,
        params,
        reference,
        cfg_scale=1.0,
        seed=parts.config.seed,
        num_samples=eval_count(parts, reference),
        space=parts.space,
        **parts.sampling,
    )
    if processes.is_first():
        append_row(folder / "fid.csv", row)
    log.info("step %d: %s", step, ", ".join(f"{k} {v:.3f}" for k, v in scores(row).items()))


def eval_count(parts: Parts, reference) -> int:
    """Samples of an evaluation while training."""
    return parts.config.eval_samples or min(
        evaluate.usual_count(reference), evaluate.WHILE_TRAINING
    )


def main(flag_values):
    setup_logging()
    with distributed.job(config_lib.all_flags(flag_values).distributed):
        run(flag_values)


def run(flag_values):
    """The program, in each process of the job."""
    folder = loop.run_folder(config_lib.all_flags(flag_values))
    saved = (
        config_lib.from_json(folder / "config.json") if loop.has_run(folder) else None
    )  # a run goes on with its own settings, and what the command line adds
    config = config_lib.resolve(flag_values, saved)
    config_lib.check_use(config, flag_values)
    keep_freed_memory()
    mesh = sharding.make_mesh(config.mesh.devices, config.mesh.fsdp)
    parts = build(
        config,
        data.load(config.dataset_name, config.data.split, config.data, facts_only=config.dry_run),
        mesh,
    )
    if (
        config.load_dir
        and not (source := Checkpoints(pathlib.Path(config.load_dir) / "checkpoints")).steps()
    ):
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
        self.parts, self.folder, self.config, self.samples = (
            parts,
            folder,
            parts.config,
            len(parts.dataset.samples),
        )

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
        self.step_fn, self.collapse = (
            make_step(parts, step),
            CollapseWatch(c.collapse_ratio, c.stop_on_collapse),
        )

    def fetch(self):
        return next_fresh(self.parts, self.stream)

    def advance(self, fresh):
        self.state, self.bank, metrics = self.step_fn(
            self.state, self.bank, fresh, self.encoder_params
        )
        self.position += 0 if fresh is None else self.parts.push
        return metrics

    def after_first_step(self):
        if self.reference:
            params = sharding.local_copy(self.parts.mesh, self.state.ema[self.parts.first_ema])
            evaluate.sanity_check(
                self.parts.model,
                params,
                self.reference,
                cfg_scale=1.0,
                seed=self.config.seed,
                space=self.parts.space,
                **self.parts.sampling,
            )

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
        return checkpoint_tree(self.parts, self.state, self.bank), describe_run(
            self.parts, self.position
        )


def describe_run(parts: Parts, position: int) -> dict:
    """What a checkpoint says of itself: enough to sample from it, and to resume the stream."""
    dataset = {
        "name": parts.dataset.name,
        "class_names": parts.dataset.class_names,
        "shape": parts.dataset.shape,
        "dtype": parts.dataset.dtype,
        "latents": parts.dataset.latents,
    }
    return {
        "generator": describe(parts.model),
        "dataset": dataset,
        "ema": [str(d) for d in parts.config.optim.ema],
        "position": position,
        "config": parts.config.to_dict(),
    }
