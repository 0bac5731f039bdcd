"""The published artifact format: how weights lie on disk.

An artifact is a folder with two files:

    metadata.json         kind ("gen" or "mae"), model_config, and whatever else is known
    ema_params.msgpack    the tree of parameters, by `flax.serialization`

https://huggingface.co/Goodeat/drifting holds the paper's own: generators in `models/gen/jax/NAME`,
encoders in `models/mae/jax/NAME`. Any other repository of the hub holds one, at its top. Here files
are read and written; `models/weights.py` makes generators of them, `models/encoders/mae.py`
encoders.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import serialization, traverse_util

from utils import storage
from utils.errors import UserError
from utils.paths import to_path
from utils.weight_files import hub

HUB_REPO = "Goodeat/drifting"
METADATA_FILE, PARAMS_FILE = "metadata.json", "ema_params.msgpack"
KINDS = {"gen": "a generator", "mae": "an encoder"}


def find_artifact(source: str | pathlib.Path, kind: str) -> pathlib.Path:
    """Returns the folder of an artifact.

    Args:
        source: the folder itself; or, to fetch a local copy, `hf://NAME` of the paper's own or
            `hf://OWNER/REPOSITORY` of anybody's.
        kind: "gen" or "mae", where the hub's folder of that name is looked for.
    Raises:
        UserError: no such folder, or no answer from the hub.
    """
    if not str(source).startswith("hf://"):
        folder = to_path(source)
        if not folder.is_dir():
            raise UserError(
                f"{source} is not a folder: give that of a run, or of a published artifact "
                f"({METADATA_FILE} and {PARAMS_FILE}), or hf://NAME"
            )
        return storage.local(folder)
    name = str(source).removeprefix("hf://")
    if "/" in name:
        return _find_repository(name)
    folder_on_hub = f"models/{kind}/jax/{name}"
    try:
        patterns = [f"{folder_on_hub}/*"]
        snapshot = hub.download_snapshot(HUB_REPO, patterns)
    except Exception as error:  # the hub's client raises the errors of several network libraries
        raise UserError(
            f"{source}: no answer from the Hugging Face hub ({type(error).__name__}). Offline, "
            f"copy the folder {folder_on_hub} of https://huggingface.co/{HUB_REPO} from another "
            "machine and give its path"
        ) from error
    folder = snapshot / folder_on_hub
    if not folder.is_dir():
        raise UserError(
            f"{source}: https://huggingface.co/{HUB_REPO} has no folder {folder_on_hub}: "
            "look there for the names"
        )
    return folder


def _find_repository(name: str) -> pathlib.Path:
    """Returns a local copy of the artifact at the top of a repository, OWNER/REPOSITORY."""
    if not hub.REPOSITORY.fullmatch(name):
        raise UserError(f"hf://{name}: expected hf://NAME, or hf://OWNER/REPOSITORY")
    address = f"https://huggingface.co/{name}"
    try:
        return hub.download_snapshot(name, [METADATA_FILE, PARAMS_FILE])
    except Exception as error:  # the hub's client raises the errors of several network libraries
        reason = type(error).__name__
        if reason == "RepositoryNotFoundError":
            raise UserError(
                f"hf://{name}: there is no {address}, or it is private: correct the name, or log "
                "in by hf auth login"
            ) from error
        raise UserError(
            f"hf://{name}: no answer from the Hugging Face hub ({reason}). Offline, copy "
            f"{METADATA_FILE} and {PARAMS_FILE} of {address} into a folder and give its path"
        ) from error


def read_metadata(folder: pathlib.Path, kind: str) -> dict[str, Any]:
    """Returns the metadata of an artifact, which has a `model_config`.

    Raises UserError where it is missing or damaged, or of another kind than `kind`.
    """
    file = folder / METADATA_FILE
    _check_exists(file)
    try:
        metadata = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}): copy the file again") from error
    if not isinstance(metadata, dict) or not isinstance(metadata.get("model_config"), dict):
        raise UserError(f"{file} has no model_config: copy the file again")
    found: Any = metadata.get("kind")
    if found != kind:
        description = KINDS.get(found, f"of kind {found!r}")
        raise UserError(
            f"{folder} is {description}, but {KINDS[kind]} is needed here: give another folder"
        )
    return metadata


def read_artifact_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of an artifact by their published names, "a/b/c".

    Raises UserError where the file is missing or damaged.
    """
    file = folder / PARAMS_FILE
    _check_exists(file)
    try:
        tree = serialization.msgpack_restore(file.read_bytes())
        tensors: dict[str, Any] = traverse_util.flatten_dict(tree, sep="/")
    except Exception as error:  # msgpack and flax raise a dozen types for broken bytes
        raise UserError(
            f"{file} is broken or cut short ({type(error).__name__}): copy the file again"
        ) from error
    return tensors


def write_artifact(
    folder: str | pathlib.Path,
    kind: str,
    tensors: Mapping[str, np.ndarray],
    model_config: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> None:
    """Writes an artifact.

    Args:
        folder: made if missing; the two files in it are replaced.
        kind: "gen" or "mae".
        tensors: by their published names.
        model_config: the fields of the model.
        metadata: anything else for metadata.json.
    """
    folder = to_path(folder)
    if not storage.is_bucket(folder):
        folder.mkdir(parents=True, exist_ok=True)
    tree = traverse_util.unflatten_dict(dict(sorted(tensors.items())), sep="/")
    (folder / PARAMS_FILE).write_bytes(serialization.msgpack_serialize(tree))
    facts = {
        "format": "flax.msgpack",
        "kind": kind,
        "backend": "jax",
        "model_config": dict(model_config),
    }
    text = json.dumps({"path": PARAMS_FILE, **metadata, **facts}, indent=2)
    (folder / METADATA_FILE).write_text(text + "\n")


def _check_exists(file: pathlib.Path) -> None:
    if not file.is_file():
        raise UserError(
            f"{file.parent} has no {file.name}: give the folder of a run, which has a config.json, "
            f"or of a published artifact ({METADATA_FILE} and {PARAMS_FILE}), or hf://NAME"
        )
