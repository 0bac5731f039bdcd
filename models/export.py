"""A run's generator or encoder in the published format."""

import pathlib

from models.encoders import save_mae
from models.runs import is_run, load_mae_run, load_run
from models.weights import save_generator
from utils.checkpoint import Checkpoints
from utils.errors import UserError


def export_run(where, folder, step: int | None = None, ema: str = "") -> str:
    """Writes the network of the run `where` to `folder`, and returns what it is: "generator" or "encoder".

    step, ema: as in `models.runs.load_run`. The metadata tell `step`, `ema_decay` (0: the parameters themselves), and of what data and configuration
    it comes. Raises UserError for what is no run, and for a generator that the format does not hold.
    """
    if not is_run(where):
        raise UserError(f"{where} is not the folder of a run: give one of train_drift.py or pretrain_mae.py")
    _, facts, _ = Checkpoints(pathlib.Path(where) / "checkpoints").restore({}, step)
    kind, load, save = ("encoder", load_mae_run, save_mae) if "mae" in facts else ("generator", load_run, save_generator)
    model, params, facts = load(where, step, ema)
    decay = 0.0 if facts["ema"] == "raw" else float(facts["ema"])
    save(folder, model, params, {k: facts[k] for k in ("step", "ema", "dataset", "config")} | {"ema_decay": decay})
    return kind
