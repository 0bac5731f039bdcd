"""The folder of a run: where it is, and whether its run can go on.

A run folder holds everything that evaluation and sampling need:

    config.json       the whole configuration
    checkpoints/      what steps change (utils/checkpoint/)
    averages/         with --optim.ema_snapshots, averages of which others are made
    metrics.jsonl     one line of numbers per log interval
    environment.jsonl the command, the devices, versions and commit, at each start
    goodput.json      where the time went, over all starts
    report.html       all of it to look at, once the run is at its end
    samples/*.png     figures, beside curves.png, and fid.csv where a generator is scored
"""

import logging
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

import jax

from data.identity import difference, moved, renamed_classes
from utils import config as config_lib
from utils import storage
from utils.checkpoint import Checkpoints
from utils.config.values import as_text
from utils.errors import UserError
from utils.paths import refuse_checkpoint, to_path

log = logging.getLogger("train")

# Settings that say where a run lies or comes from. That they differ is not worth a warning.
UNREMARKABLE = {"save_dir", "load_dir", "init_from", "dry_run", "recipe"}


def run_folder(config: Any, prefix: str = "") -> pathlib.Path:
    """Returns the folder that --save_dir names, or else runs/<prefix><dataset_name>.

    Raises UserError where --save_dir cannot be the folder of a run.
    """
    if config.save_dir:
        refuse_checkpoint("save_dir", config.save_dir, step_flag=False)
        folder = to_path(config.save_dir)
    else:
        name = config.dataset_name.replace("/", "_").replace(":", "_")
        folder = pathlib.Path(f"runs/{prefix}{name}")
    if not storage.is_bucket(folder) and folder.is_file():
        raise UserError(f"--save_dir {folder}: is a file; cannot write a run there, give a folder")
    return folder


def has_run(folder: pathlib.Path) -> bool:
    """Returns whether there is a run in the folder, which may have no checkpoint yet."""
    return (folder / "config.json").exists()


def has_checkpoint(folder: pathlib.Path) -> bool:
    """Returns whether the run in the folder has learned something that can go on."""
    return bool(Checkpoints(folder / "checkpoints").steps())


def make_folder(folder: pathlib.Path) -> pathlib.Path:
    """Makes the run folder and returns it. Raises UserError where nothing can be written."""
    # Each process tries for itself: on a cluster, the others may see another file system.
    mark = folder / f".writable_{jax.process_index()}"
    try:
        if not storage.is_bucket(folder):
            (folder / "samples").mkdir(parents=True, exist_ok=True)
        storage.write(mark, b"")
        mark.unlink()
    except OSError as error:
        raise UserError(
            f"--save_dir {folder}: cannot write there ({error.strerror}); "
            "give a folder that can be written"
        ) from None
    return folder


# ---- what a run may change when it goes on ----


def check_same_run(
    before: Mapping[str, Any],
    config: Any,
    source: pathlib.Path,
    fixed: tuple[str, ...],
    free: tuple[str, ...],
) -> None:
    """Checks that the run in the folder `source` can go on with other settings, and names them.

    Args:
        before: all settings that the run has had so far, nested or dotted.
        config: the settings that are asked for now.
        source: the run folder, for messages.
        fixed: settings that must not change: their names, or how those start, up to a dot or an
            underscore.
        free: those among them that may change all the same.
    Raises:
        UserError: a fixed setting has changed. Any other change is a warning.
    """
    changed = changed_settings(config_lib.flatten(before), config_lib.flatten(config.to_dict()))
    starts = tuple(name for name in fixed if name.endswith((".", "_")))
    refused = [name for name in changed if name in fixed or name.startswith(starts)]
    refused = [name for name in refused if name not in free]
    if "dataset_name" in refused and moved(*changed["dataset_name"]):
        refused.remove("dataset_name")  # `check_same_data` tells whether it is the same data
    for cause in ("dataset_name", "objective"):
        if cause in refused:
            refused = [cause]  # the others may differ because of it
    if refused:
        had = ", ".join(f"{name} = {in_words(changed[name][0])}" for name in refused)
        wanted = ", ".join(f"{name} = {in_words(changed[name][1])}" for name in refused)
        flags = [f"--{name}={as_text(changed[name][0])}" for name in refused]
        back = " ".join(map(shlex.quote, flags))
        raise UserError(
            f"{source} holds a run with {had}, but {wanted} was asked for; "
            f"give another {flag_of(source, config)}, or {back}"
        )
    for name, (old, new) in changed.items():
        if name not in UNREMARKABLE:
            log.warning("%s: %s was %s and is now %s", source, name, old, new)


def check_same_data(
    before: Mapping[str, Any], now: Mapping[str, Any], config: Any, source: pathlib.Path
) -> None:
    """Checks that the run at `source` goes on with its own data, which may have moved.

    Args:
        before: the metadata of a checkpoint.
        now: of the data set, as `data.identity.identity` returns it.
        config: the settings that are asked for now.
        source: the run folder, for messages.
    Raises:
        UserError: the classes are others, or the data set at another path is other data.
    """
    known = before["dataset"]
    old_name, new_name = before["config"]["dataset_name"], config.dataset_name
    # Runs of before 2026-11-26 have neither the classes of an encoder's data nor a checksum.
    classes = now["class_names"]
    other_classes = renamed_classes(known.get("class_names", classes), classes)
    if other_classes:
        raise UserError(
            f"{source}: {other_classes}; the labels of the run would mean something else: restore "
            f"the data, or give another {flag_of(source, config)}"
        )
    if "crc32" not in known:
        other = "the run knows no checksum of its data"
    else:
        other = difference(known, dict(now))
    if not moved(old_name, new_name):
        if "crc32" in known and other:
            log.warning("%s: %s has changed since the last checkpoint: %s", source, new_name, other)
        return
    if other:
        raise UserError(
            f"{source} holds a run with dataset_name = {old_name}, and {new_name} cannot stand in "
            f"for it ({other}); give --dataset_name {old_name}, or another "
            f"{flag_of(source, config)}"
        )
    log.info("%s: %s is now %s, the same data by its checksum", source, old_name, new_name)


def flag_of(source: pathlib.Path, config: Any) -> str:
    """Returns the flag that names the run folder `source`."""
    is_loaded = config.load_dir and to_path(config.load_dir) == source
    return "--load_dir" if is_loaded else "--save_dir"


def in_words(value: Any) -> str:
    """Returns the value of a setting as one would type it, nothing as ''."""
    return as_text(value) or "''"


def changed_settings(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Returns {name: (old value, new value)} of the settings that differ."""
    changed = {}
    for name, new in now.items():
        old = before[name]
        # JSON has no tuples: what was one comes back as a list.
        comparable = tuple(old) if isinstance(old, list) else old
        if comparable != new:
            changed[name] = (old, new)
    return changed
