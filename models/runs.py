"""A generator, or an encoder, out of one of our run folders: config.json beside checkpoints/."""

import pathlib

import jax

from models.build import from_description
from models.dit import init_params
from models.mae import MAE, mae_params
from utils.checkpoint import Checkpoints
from utils.errors import UserError


def is_run(where) -> bool:
    """Whether `where` is the folder of a run, not of a published artifact."""
    return (pathlib.Path(where) / "config.json").is_file()


def describe_run(where, step: int | None = None, ema: str = "", kind: str = "generator"):
    """(model, metadata) of `load_run`, or with kind "mae" of `load_mae_run`, without reading parameters."""
    _, metadata, step = Checkpoints(pathlib.Path(where) / "checkpoints").restore({}, step)
    if kind not in metadata:
        found, wanted = (
            ("an encoder", "a generator") if kind == "generator" else ("a generator", "an encoder")
        )
        raise UserError(
            f"{where} is the run of {found}, but {wanted} is needed here: give another folder"
        )
    kept = metadata["ema"]
    ema = ema or (kept[0] if kept else "raw")
    if ema != "raw" and ema not in kept:
        raise UserError(f"--ema {ema}: {where} keeps {', '.join(kept)} and raw; choose one of them")
    facts = metadata[kind]
    model = (
        from_description(facts)
        if kind == "generator"
        else MAE(**facts | {"layers": tuple(facts["layers"])})
    )
    return model, metadata | {"step": step, "ema": ema}


def load_run(where, step: int | None = None, ema: str = ""):
    """Reads the generator of a run: (model, params, metadata).

    step: of the checkpoint, None = the newest. ema: a decay that the run keeps, such as "0.999", "raw" for the parameters themselves, "" for the run's first decay.
    metadata: what the checkpoint says of itself, with `step` and `ema` added.
    """
    model, metadata = describe_run(where, step, ema)
    return model, _read(where, lambda: init_params(model, jax.random.key(0)), metadata), metadata


def load_mae_run(where, step: int | None = None, ema: str = ""):
    """Reads the masked autoencoder of a run of pretrain_mae.py, as `load_run`."""
    model, metadata = describe_run(where, step, ema, "mae")
    return model, _read(where, lambda: mae_params(model), metadata), metadata


def _read(where, init, metadata):
    item = "params" if metadata["ema"] == "raw" else f"ema_{metadata['ema']}"
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), jax.eval_shape(init)
    )
    tree, _, _ = Checkpoints(pathlib.Path(where) / "checkpoints").restore(
        {item: like}, metadata["step"]
    )
    return tree[item]
