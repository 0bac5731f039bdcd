"""Writes the generator or the encoder of a run in the published format."""

import pathlib

from drifting.averages import POWER, width_of
from models.encoders.mae import save_mae
from models.runs import is_run, load_mae_run, load_run
from models.weights import save_generator
from utils.checkpoint import Checkpoints
from utils.errors import UserError
from utils.paths import refuse_checkpoint, to_path


def export_run(
    run: str | pathlib.Path, folder: str | pathlib.Path, step: int | None = None, ema: str = ""
) -> str:
    """Writes the network of a run, and returns what it is: "generator" or "encoder".

    The metadata tell its `step`, its `ema_decay` (0 for the parameters themselves) or `ema_width`
    (of a power-function average), and of what data and configuration it comes.

    Args:
        run: the folder of the run.
        folder: of the artifact; made if missing.
        step, ema: as in `models.runs.load_run`.
    Raises:
        UserError: it is no run, or of a generator that the format does not hold.
    """
    refuse_checkpoint("load_dir", run, step_flag=True)
    if not is_run(run):
        raise UserError(
            f"{run} is not the folder of a run: give one of train_drift.py or pretrain_mae.py"
        )
    facts, _ = Checkpoints(to_path(run) / "checkpoints").look(step)
    if "mae" in facts:
        model, params, facts = load_mae_run(run, step, ema)
        save_mae(folder, model, params, _metadata(facts))
        return "encoder"
    model, params, facts = load_run(run, step, ema)
    save_generator(folder, model, params, _metadata(facts))
    return "generator"


def _metadata(facts: dict) -> dict:
    """Returns what an artifact says of itself, from what a checkpoint says of itself."""
    metadata = {key: facts[key] for key in ("step", "ema", "dataset", "config")}
    average = facts["ema"]
    if average.startswith(POWER):
        return metadata | {"ema_width": width_of(average)}
    return metadata | {"ema_decay": 0.0 if average == "raw" else float(average)}
