"""Trains a one-step image generator by drifting.

The step that matters is `drifting.step.train_step`; here it is compiled, fed and saved.
`make_step`, below, is where it is called.
"""

import functools
import logging
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import flags

import data
from baselines import flow
from drifting.bank import Bank
from drifting.state import TrainState
from drifting.step import drift_step, train_step
from models.build import describe
from models.runs import CONDITIONS
from training import drift_evaluation, loop, own_data, program
from training.collapse import CollapseWatch
from training.drift_parts import DriftParts, build
from training.drift_state import make_state, state_shapes
from training.field_watch import FieldWatch
from training.fill_bank import fill_bank
from training.fill_memory import fill_memory
from training.flow_parts import FlowParts
from training.generator_parts import GeneratorParts
from training.host_bank import HostStep
from training.job import Job
from training.reals import next_reals, put_bank, stream_reals
from training.reports import attention_row, drift_report
from training.resolve_field import settings_of_state
from training.resolve_start import check_from_flow, check_weights
from training.run_folder import check_same_run
from training.state import jit_step_of_run, to_items
from utils import config as config_lib
from utils import processes, sharding
from utils.errors import UserError
from utils.logging import RunLog
from utils.memory import bytes_on_a_device, device_memory, host_memory, require_memory

log = logging.getLogger("train")


def main(flag_values: flags.FlagValues) -> None:
    """Runs the program train_drift.py."""
    program.main(DriftJob, flag_values)


def open_run(config: Any) -> pathlib.Path:
    """Returns the run folder, made and writable; see `Job.open_run`."""
    return DriftJob.open_run(config)


def train(parts: DriftParts | FlowParts, folder: pathlib.Path) -> None:
    """Trains to the end in a folder that `open_run` returned."""
    loop.train(DriftJob(parts, folder))


def report(parts: DriftParts | FlowParts) -> str:
    """Returns what the run takes, known before it starts."""
    return DriftJob.report(parts)


class DriftJob(Job):
    """The training of a generator: its state, the bank, and the stream of real samples.

    It learns by drifting, or with --objective flow as the baseline does (baselines/flow.py).
    """

    # ---- the program ----

    schema = config_lib.TRAINER
    # A run keeps the data, the seed, the networks, the bank, and the averages: its checkpoints
    # hold what depends on them ...
    fixed = (
        "dataset_name",
        "seed",
        "objective",
        "optim.name",
        "optim.ema",
        "optim.ema_snapshots",
        "model.",
        "drift.bank_",
        "encoder.",
        "data.streaming",
        "data.stream_window",
        "data.config",
        "data.condition_column",
    )
    # ... but not how these are computed, or where they are.
    free = (
        "model.preset",
        "model.unroll",
        "model.remat",
        "model.attention",
        "model.use_bf16",
        "model.attn_fp32",
        "drift.bank_placement",
        "drift.bank_budget_gb",
        "encoder.cache_budget_gb",  # what it decides is in encoder.cache
        "drift.field_lr",
        "drift.moment_decay",
    )

    @classmethod
    def check_flags(cls, config: Any, flag_values: flags.FlagValues) -> None:
        config_lib.check_use(config, flag_values)
        if "model.from_flow" in config_lib.given_flags(flag_values):
            check_from_flow(config)

    @classmethod
    def choose(cls, flag_values: flags.FlagValues) -> list[own_data.Choice]:
        return own_data.choose(config_lib.given_flags(flag_values))

    @classmethod
    def build(cls, config: Any, mesh: jax.sharding.Mesh) -> DriftParts | FlowParts:
        options, facts_only = config.data, config.dry_run
        dataset = data.load(config.dataset_name, options.split, options, facts_only=facts_only)
        return build(config, dataset, mesh)

    @classmethod
    def check_parts(cls, parts: DriftParts | FlowParts) -> None:
        """Raises UserError for what is to score, and for weights of --init_from that do not fit."""
        drift_evaluation.check_settings(parts.config)
        check_weights(parts)

    @classmethod
    def shapes(cls, parts: DriftParts | FlowParts) -> TrainState:
        return state_shapes(parts)

    @classmethod
    def check_memory(cls, parts: DriftParts | FlowParts) -> None:
        require_memory(
            "what the field keeps from step to step",
            bytes_on_a_device(cls.shapes(parts).field),
            device_memory(parts.mesh.devices.flat[0]),
            "give --drift.moments all (frechet) or fewer --drift.landmarks (mmd), or fewer or "
            "smaller features (--encoder.layers)",
        )
        super().check_memory(parts)
        samples = 4 * parts.config.batch_size * math.prod(parts.dataset.shape) // parts.mesh.size
        require_memory(
            "the generated samples of a step",
            samples,
            device_memory(parts.mesh.devices.flat[0]),
            "give a smaller --batch_size",
        )
        smaller = "give a smaller --drift.bank_per_class and --drift.bank_global"
        # Each process fills the first bank in host memory; then the devices take their parts.
        require_memory(
            "the bank of reals in host memory",
            parts.bank_bytes,
            host_memory(),
            smaller,
        )
        if not parts.bank_on_host:
            require_memory(
                "the bank of reals",
                bytes_on_a_device(parts.bank_shapes),
                device_memory(parts.mesh.devices.flat[0]),
                smaller,
            )

    @classmethod
    def report(cls, parts: DriftParts | FlowParts) -> str:
        return drift_report(parts, state_shapes(parts))

    @classmethod
    def check_same_run(cls, before: Mapping[str, Any], config: Any, source: pathlib.Path) -> None:
        fixed = cls.fixed
        for settings in (before, config.to_dict()):
            flat = config_lib.flatten(settings)
            fixed += settings_of_state(flat)  # it is in the checkpoint
            if flat["encoder.cache"] == "on" and flat["drift.bank_per_class"] != "all":
                fixed += ("data.flip",)  # the bank, which is there too, has mirrored features
        check_same_run(before, config, source, fixed, cls.free)

    # ---- begin, or go on from a checkpoint ----

    parts: DriftParts | FlowParts
    bank: Bank

    def begin(self) -> None:
        self.state = fill_memory(self.parts, make_state(self.parts))
        bank, self.position = fill_bank(self.parts)
        self.bank = put_bank(self.parts, bank)

    def release(self) -> None:
        super().release()
        del self.bank

    def items(self) -> dict[str, Any]:
        return checkpoint_items(self.parts, self.state, self.bank)

    def checkpoint_shapes(self) -> dict[str, Any]:
        return checkpoint_shapes(self.parts)

    def check_metadata(self, metadata: dict[str, Any], source: pathlib.Path) -> None:
        super().check_metadata(metadata, source)
        check_same_vae(metadata["dataset"].get("latents"), self.parts.dataset.latents, source)

    def take(self, items: dict[str, Any]) -> None:
        super().take(items)
        self.state = fill_memory(self.parts, self.state)
        if saves_samples(self.parts):
            self.bank = Bank.from_dict(items["bank"] | items.get(CONDITIONS, {}))
        else:
            self.bank = put_bank(self.parts, fill_bank(self.parts)[0])

    def description(self) -> dict[str, Any]:
        dataset = self.parts.dataset
        return {
            "generator": describe(self.parts.model),
            "dataset": {
                "name": dataset.name,
                "shape": dataset.shape,
                "dtype": dataset.dtype,
                "latents": dataset.latents,
                "conditions": conditions_kept(self.parts),
            }
            | self.identity,
        }

    # ---- steps ----

    def prepare(self, step: int) -> None:
        parts, config = self.parts, self.config
        self.stream = None
        if not parts.whole_bank:
            self.stream = stream_reals(parts, self.position)
        self.encoder_params = sharding.put(parts.encoder_params, sharding.replicated(parts.mesh))
        self.reference = None
        if config.eval_interval:
            self.reference = drift_evaluation.reference_of(parts)
        if getattr(parts.model, "attention", "") == "auto":
            log.info("attention: %s", attention_row(parts)["attention"])
        self.take_step = make_step(parts, step, int(self.state.seed))
        self.collapse = CollapseWatch(config.collapse_ratio, config.stop_on_collapse)
        if isinstance(parts, DriftParts):
            self.field_watch = FieldWatch(parts.drift, config.max_steps)

    def fetch(self) -> tuple[Any, Any] | None:
        """Returns new reals for the bank: (samples [S, ...], labels [S]), or None if it has all."""
        return next_reals(self.parts, self.stream)

    def advance(self, batch: tuple[Any, Any] | None) -> dict[str, jax.Array]:
        self.state, self.bank, metrics = self.take_step(
            self.state, self.bank, batch, self.encoder_params
        )
        if batch is not None:
            self.position += self.parts.reals_per_step
        return metrics

    def trace_step(self, batch: tuple[Any, Any] | None) -> Any:
        return self.take_step.trace(self.state, self.bank, batch, self.encoder_params)

    # ---- what is looked at on the way ----

    def after_first_step(self) -> None:
        if self.reference:
            drift_evaluation.try_evaluation(self.parts, self.average(), self.reference)

    def after_log(self, step: int, values: dict[str, float]) -> None:
        if isinstance(self.parts, DriftParts):
            self.collapse.check(step, values["diversity"])
            self.field_watch.check(step, values["perplexity"])

    def evaluate(self, step: int, run_log: RunLog) -> None:
        params = self.average()
        scores = drift_evaluation.score(self.parts, params, self.reference, step, self.folder)
        run_log.show(step, scores)

    def draw_figures(self, params: Any, path: pathlib.Path) -> None:
        drift_evaluation.draw_samples(self.parts, params, path)
        drift_evaluation.draw_curves(self.parts, self.folder)

    def report_run(self) -> None:
        """Writes report.html, where figures are wanted. A run does not fail for its report."""
        if not (self.config.sample_interval and processes.is_first()):
            return
        from evaluation.report import write_report  # not needed before the end

        try:
            with processes.alone():
                path = write_report(self.folder, self.config.seed, sharding.local_sharding())
        except Exception as error:  # what was learned is saved, and matters more
            log.warning("no report (%s); scripts/report.py tries again", error)
        else:
            log.info("%s: open it in a browser", path)


# ---- the step ----


def make_step(parts: DriftParts | FlowParts, first_step: int = 0, seed: int | None = None) -> Any:
    """Returns the step: (state, bank, fresh, encoder_params) -> (state, bank, metrics).

    `fresh` are new real samples for the bank, (samples [S, ...], labels [S]), or None for a bank
    that holds all data. State and bank are donated: their memory is used for the new ones.

    first_step: the number of steps taken before the first call.
    seed: of the state, where a bank in host memory draws by it; None: that of the configuration.
    """
    jitted = jit_step(parts)
    if isinstance(parts, FlowParts) or not parts.bank_on_host:
        return jitted
    return HostStep(parts, jitted, first_step, seed)


def jit_step(parts: DriftParts | FlowParts) -> Callable:
    """Returns the jitted program of a step; its first call compiles it.

    With the bank in host memory it is (state, batch, encoder_params) -> (state, metrics): the batch
    comes from outside. Otherwise it takes and returns what the step of `make_step` does.
    """
    if isinstance(parts, FlowParts):
        return jit_flow_step(parts)

    def generate(params, noise, labels, alpha, style):
        # Where parameters are divided over devices, they travel and samples stay.
        params = sharding.all_gather(parts.mesh, params)
        with sharding.samples_divided(parts.layout.rows_sharding):
            return parts.model.apply({"params": params}, noise, labels, alpha, style)

    arguments: dict[str, Any] = {
        "generate": generate,
        "optimizer": parts.optimizer,
        "config": parts.drift,
        "layout": parts.layout,
    }

    def step(state, bank, fresh, encoder_params):
        encode = functools.partial(parts.encode, encoder_params)
        to_stored = functools.partial(parts.to_stored, encoder_params)
        return train_step(state, bank, fresh, encode=encode, to_stored=to_stored, **arguments)

    def step_on_batch(state, batch, encoder_params):
        encode = functools.partial(parts.encode, encoder_params)
        return drift_step(state, batch, encode=encode, **arguments)

    if parts.bank_on_host:
        return jit_step_of_run(step_on_batch, parts.mesh, state_shapes(parts))
    return jit_step_of_run(step, parts.mesh, state_shapes(parts), parts.bank_shapes)


def jit_flow_step(parts: FlowParts) -> Callable:
    """Returns the same for --objective flow, whose step has no encoder."""

    def velocity(params, *inputs):
        params = sharding.all_gather(parts.mesh, params)
        with sharding.samples_divided(sharding.batch_sharding(parts.mesh)):
            return parts.model.velocity(params, *inputs)

    def spread(tree):
        return jax.lax.with_sharding_constraint(tree, sharding.batch_sharding(parts.mesh))

    def step(state, bank, fresh, encoder_params):
        return flow.train_step(
            state,
            bank,
            fresh,
            velocity=velocity,
            optimizer=parts.optimizer,
            config=parts.flow,
            spread=spread,
        )

    return jit_step_of_run(step, parts.mesh, state_shapes(parts), parts.bank_shapes)


# ---- the checkpoint ----


def checkpoint_items(parts: GeneratorParts, state: TrainState, bank: Bank) -> dict[str, Any]:
    """Returns what a checkpoint holds, as items that can be read on their own."""
    stored = bank.to_dict()
    items = to_items(state) | {"bank": stored}
    if not saves_samples(parts):
        del stored["images"], stored["pool"]
    if CONDITIONS in stored:
        items[CONDITIONS] = {CONDITIONS: stored.pop(CONDITIONS)}  # sampling reads them alone
    return items


def conditions_kept(parts: GeneratorParts) -> list[int] | None:
    """Returns the shape [L, E] of the conditions in a checkpoint; None for classes."""
    width = parts.dataset.condition_width
    return [parts.per_class, width] if width else None


def saves_samples(parts: GeneratorParts) -> bool:
    """Returns whether checkpoints hold the samples of the bank.

    The features of a whole data set are left out: they are many, and are computed again.
    """
    return not (parts.cached and parts.whole_bank)


def checkpoint_shapes(parts: GeneratorParts) -> dict[str, Any]:
    """Returns `checkpoint_items` of these parts, as shapes, dtypes and shardings."""
    return checkpoint_items(parts, state_shapes(parts), parts.bank_shapes)


def check_same_vae(before: dict | None, now: dict | None, source: pathlib.Path) -> None:
    """Raises UserError where the run at `source` learned the latents of another VAE.

    before, now: what is known of the latents then and now (`data.Dataset.latents`), or None.
    """
    old = (before or {}).get("vae_weights")
    new = (now or {}).get("vae_weights")
    if old != new:
        raise UserError(
            f"{source} holds a run on latents of a VAE with the checksum {old}, now {new}; "
            "give its VAE with --vae, or another --save_dir"
        )
