"""A run's generator or encoder in the published format."""

import pathlib

from models.encoders import save_mae
from models.runs import is_run, load_mae_run, load_run
from models.weights import save_generator
from utils.checkpoint import Checkpoints
from utils.errors import UserError


def export_run(where, folder, step: int | None = None, ema: str = "") -> str:
    """Writes the network of the run `where` to `folder`, and returns what it is: "generator" or "encoder".

    step, ema: as in `models.runs.load_run`. The metadata tell `step`, `ema_decay` (0: the parameters
    themselves), and of what data and configuration it comes. Raises UserError for what is no run, and for a
    generator that the format does not hold.
    """
    if not is_run(where):
        raise UserError(
            f"{where} is not the folder of a run: give one of train_drift.py or pretrain_mae.py"
        )
    _, facts, _ = Checkpoints(pathlib.Path(where) / "checkpoints").restore({}, step)
    is_mae = "mae" in facts
    model, params, facts = (load_mae_run if is_mae else load_run)(where, step, ema)
    metadata = {k: facts[k] for k in ("step", "ema", "dataset", "config")}
    metadata["ema_decay"] = 0.0 if facts["ema"] == "raw" else float(facts["ema"])
    (save_mae if is_mae else save_generator)(folder, model, params, metadata)
    return "encoder" if is_mae else "generator"
