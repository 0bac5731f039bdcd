"""Writes a generator as a repository of the Hugging Face hub.

    metadata.json, ema_params.msgpack    the published format, which `hf://OWNER/NAME` loads
    model.safetensors                    the same tensors for other programs
    config.json                          the configuration of the training
    samples/grid.png                     samples of each class
    README.md                            the model card, with the scores of the run

Paths of this machine are no one else's matter: of each, its last part is kept.
"""

import pathlib
import re
from typing import Any

import safetensors.numpy

from evaluation.compare_runs import SAMPLE_BATCH, labels_shown
from evaluation.hub_card import model_card
from evaluation.sample_command import Sampler
from models.artifacts import METADATA_FILE, read_artifact_tensors, read_metadata
from models.latents import latent_space_of
from models.weights import load_generator
from utils.figures import save_grid
from utils.files import cannot_write, write_json_atomic
from utils.sharding import local_sharding

PER_CLASS = 10  # samples of a class in the grid
GRID = "samples/grid.png"
# A path that begins at the top of the file system or in a home folder, alone or after "folder:" or
# a comma. Names of the hub, "hf://NAME" and "OWNER/NAME", are none.
PATH = re.compile(r"(^|[:,])(?:/(?!/)|~/)[^,:]*?([^/,:]+)/?(?=$|,)")


def write_hub_folder(
    folder: pathlib.Path, rows: list[dict], repository: str, licence: str, vae: str, seed: int
) -> Sampler:
    """Completes an artifact for the hub, and returns its generator.

    Args:
        folder: of the artifact, as `models.export.export_run` writes it.
        rows: of the run's fid.csv; those of the exported step and average go into the card.
        repository: OWNER/NAME.
        licence: of the weights, by its name on the hub.
        vae: --vae, for a generator of latents.
        seed: of the noise of the samples.
    Raises:
        UserError: a file cannot be written, or the VAE is not at hand.
    """
    with_paths = read_metadata(folder, "gen")
    metadata = without_paths(with_paths)
    write_json_atomic(folder / METADATA_FILE, metadata)
    write_json_atomic(folder / "config.json", metadata["config"])
    model, params, _ = load_generator(folder)
    space = None
    if len(model.sample_shape) == 3:
        space = latent_space_of(model, with_paths, vae, local_sharding())
    sampler = Sampler(
        model,
        params,
        metadata,
        space,
        seed,
        batch_size=min(SAMPLE_BATCH, PER_CLASS * model.num_classes),
    )
    if sampler.makes_pictures:
        draw_grid(folder / GRID, sampler)
    card = model_card(sampler, rows, repository, licence, GRID)
    try:
        tensors = read_artifact_tensors(folder)
        file = folder / "model.safetensors"
        safetensors.numpy.save_file(tensors, file, metadata={"format": "flax"})
        (folder / "README.md").write_text(card, encoding="utf-8")
    except (OSError, safetensors.SafetensorError) as error:
        raise cannot_write(folder, error) from error
    return sampler


def without_paths(value: Any) -> Any:
    """Returns JSON in which each path of this machine is its last part alone."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    return PATH.sub(r"\1\2", value) if isinstance(value, str) else value


def draw_grid(path: pathlib.Path, sampler: Sampler) -> None:
    """Draws a row of samples of each of the first classes."""
    labels = labels_shown(sampler, PER_CLASS)
    names = [sampler.class_name(label) for label in labels[::PER_CLASS]]
    save_grid(path, sampler.draw(labels, 1.0), columns=PER_CLASS, row_labels=names)
