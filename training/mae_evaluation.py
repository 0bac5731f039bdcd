"""How well a masked autoencoder does on held-out samples, in numbers and in pictures."""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data import pipeline
from drifting.images import to_float
from drifting.state import named_key
from models.mae import MAE, random_mask, reconstruction_loss, unpatchify
from training.mae_parts import MAEParts
from utils import sharding
from utils.figures import save_grid, save_panels
from utils.logging import read_metrics
from utils.sharding import round_up

HELD_OUT = 5000  # samples of an evaluation, as many as there are up to this
DRAWN = 16  # images in a grid


@functools.partial(jax.jit, static_argnums=(0, 1))
def measure(
    model: MAE,
    mask_prob: float,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    seed: jax.Array,
    batch: jax.Array,
) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
    """Rebuilds images of which patches are hidden, and classifies the whole images.

    Args:
        model: the network.
        mask_prob: the share of patches that are hidden.
        params: its parameters.
        images: [B, H, W, C], uint8 pixels or float latents.
        labels: [B], the true classes.
        seed: of the run, uint32.
        batch: the number of this batch, uint32; with the seed it decides what is hidden.
    Returns:
        The loss of the hidden cells [B]; whether the class is right [B]; and three images of each,
        [B, H, W, C] in [-1, 1]: the whole one, what is seen of it, and what is rebuilt.
    """
    x = to_float(images)
    cells = model.cells(x)
    key = named_key(seed, "held out", batch)
    mask = random_mask(key, cells.shape, model.patch_size, mask_prob)
    recon, _ = model.apply({"params": params}, x, mask, False)
    _, logits = model.apply({"params": params}, x, jnp.zeros_like(mask), False)
    seen = cells * (1 - mask)
    rebuilt = seen + recon * mask
    views = [unpatchify(view, model.input_patch_size) for view in (cells, seen, rebuilt)]
    return reconstruction_loss(recon, cells, mask), jnp.argmax(logits, -1) == labels, views


def evaluate(parts: MAEParts, params: Any) -> dict[str, float]:
    """Returns `held_out_loss_rec`, and `held_out_accuracy` where a classifier is trained."""
    losses, right = [], []
    for number, (images, labels, n) in enumerate(held_out_batches(parts)):
        loss, correct, _ = measure_batch(parts, params, images, labels, number)
        losses.append(np.asarray(loss)[:n])
        right.append(np.asarray(correct)[:n])
    values = {"held_out_loss_rec": float(np.mean(np.concatenate(losses)))}
    if parts.config.mae.finetune_steps:
        values["held_out_accuracy"] = float(np.mean(np.concatenate(right)))
    return values


def held_out_batches(parts: MAEParts) -> Iterator[tuple[jax.Array, jax.Array, int]]:
    """Yields (images [B, ...], labels [B], n): held-out samples, of which the first n count.

    All batches have one size, so that one program serves all: the last is filled up with copies.
    Each process goes through all of them on its own devices.
    """
    devices = sharding.local_sharding(parts.mesh)
    size = round_up(min(parts.config.batch_size, 256), devices.mesh.size)
    batches = pipeline.in_order(parts.held_out, size, 0, parts.config.data.workers)
    taken = 0
    for images, labels in batches:
        n = min(len(images), HELD_OUT - taken)
        filled = [fill_up(images, size), fill_up(labels, size)]
        yield *jax.device_put(filled, devices), n
        taken += size
        if taken >= HELD_OUT:
            break


def fill_up(array: np.ndarray, size: int) -> np.ndarray:
    """Returns the array with its last row repeated until there are `size` rows."""
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, 0)])


def measure_batch(parts: MAEParts, params: Any, images, labels, number: int):
    """Returns `measure` of the batch with this number."""
    which = (np.uint32(parts.config.seed), np.uint32(number))
    return measure(parts.model, parts.step.mask_prob, params, images, labels, *which)


# ---- figures ----


def draw_grid(parts: MAEParts, params: Any, path: pathlib.Path) -> None:
    """Draws held-out images, what is seen of them, and what is made of it, as a PNG at `path`.

    Latents are shown in false colours: their first three channels, of which [-3, 3] is visible.
    """
    size = min(DRAWN, len(parts.held_out.samples))
    images, labels = next(pipeline.in_order(parts.held_out, size, 0, 0))
    _, _, views = measure_batch(parts, params, images, labels, 0)
    views = [np.asarray(view) for view in views]
    if parts.dataset.dtype != "uint8":
        views = [false_colours(view) for view in views]

    # Three rows for each eight images; images that do not fill eight are left out.
    columns = min(8, len(images))
    rows = []
    for start in range(0, len(images) - columns + 1, columns):
        for view in views:
            rows.append(view[start : start + columns])
    names = ["whole", "seen", "rebuilt"] * (len(rows) // 3)
    save_grid(path, np.concatenate(rows), columns, names)


def false_colours(latents: np.ndarray) -> np.ndarray:
    """Returns latents [B, H, W, C] as colour images, or as grey ones where C is below three."""
    channels = 3 if latents.shape[-1] >= 3 else 1
    return latents[..., :channels] / 3


def draw_curves(folder: pathlib.Path) -> None:
    """Draws curves.png of the run in `folder`, from its metrics.jsonl."""
    records = read_metrics(folder / "metrics.jsonl")
    panels = [  # title, {name of a curve: its key in the records}, logarithmic y
        (
            "reconstruction loss, hidden cells",
            {"training": "loss_rec", "held out": "held_out_loss_rec"},
            True,
        ),
        (
            "accuracy of the classifier",
            {"training": "accuracy", "held out": "held_out_accuracy"},
            False,
        ),
        (
            "norms and learning rate",
            {"gradient": "grad_norm", "update": "update_norm", "learning rate": "lr"},
            True,
        ),
        ("images per second", {"images": "images_per_s"}, False),
        ("share of the devices' matrix arithmetic (MFU)", {"MFU": "mfu"}, False),
    ]
    drawn = []
    for title, keys, logarithmic in panels:
        curves = {name: curve(records, key) for name, key in keys.items()}
        curves = {name: points for name, points in curves.items() if points}
        if curves:
            drawn.append((title, curves, "step", "", logarithmic))
    save_panels(folder / "curves.png", drawn)


def curve(records: list[dict[str, Any]], key: str) -> tuple:
    """Returns (steps, values) of the records that have a value for `key`; () where none has."""
    points = [(record["step"], record[key]) for record in records if record.get(key) is not None]
    return tuple(zip(*points, strict=True))
