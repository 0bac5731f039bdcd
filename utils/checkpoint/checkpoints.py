"""The checkpoints of one run: when to save, and which step to restore."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from utils import processes, storage
from utils.checkpoint import in_buckets
from utils.checkpoint.checksums import (
    CHECKSUMS,
    METADATA,
    find_damage,
    item_names,
    write_checksums,
)
from utils.checkpoint.lazy_orbax import load_orbax
from utils.checkpoint.reading import read_item
from utils.checkpoint.trees import flatten_tree, nest, to_save
from utils.errors import UserError

if TYPE_CHECKING:
    import pathlib

    from orbax.checkpoint import CheckpointManager

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run.

    Use it in a `with` block, or call `close`: Python does not wait for a running save at its exit.

    Args:
        folder: on this machine or in a bucket; created at the first save.
        keep: how many of the newest checkpoints stay.
        keep_interval: every checkpoint whose step is a multiple of it stays for good; 0: none.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 3, keep_interval: int = 0):
        self.folder = storage.as_path(folder)
        self.in_bucket = storage.is_bucket(self.folder)
        if not self.in_bucket:
            self.folder = self.folder.absolute()
        self.keep, self.keep_interval = keep, keep_interval
        self._manager: CheckpointManager | None = None  # Orbax's; opened by the first save
        self._pending: int | None = None  # the step that is being written in the background
        self._last: int | None = None  # the step that this object saved or restored last

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the running save and ends the background threads."""
        self.wait()
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    # ---- what there is ----

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, ascending, damaged ones too."""
        if not self.folder.is_dir():
            return []
        folders = [e for e in self.folder.iterdir() if e.name.isdecimal() and e.is_dir()]
        if self.in_bucket:
            folders = [folder for folder in folders if (folder / CHECKSUMS).exists()]
        return sorted(int(folder.name) for folder in folders)

    def latest(self) -> int | None:
        """Returns the newest step, or None."""
        return max(self.steps(), default=None)

    def items(self, step: int) -> list[str]:
        """Returns the items of a step, such as "params". Raises UserError for a damaged one."""
        damage = find_damage(self._step_folder(step), [])
        if damage:
            raise self._none_readable({step: damage})
        return item_names(self._step_folder(step))

    def _step_folder(self, step: int) -> pathlib.Path:
        return self.folder / str(step)

    # ---- saving ----

    def save(self, step: int, tree: dict[str, Any], metadata: dict, wait: bool = False) -> None:
        """Copies the arrays of `tree` to the host, then writes them in the background.

        The caller may donate or overwrite the buffers as soon as this returns. A save that is still
        running is waited for, never skipped; the step that was saved or restored last is not saved
        again. All processes must call this.

        The first save puts aside, as `<step>.replaced`, what is later than the restored step, or
        not earlier than `step` where none was restored. The run has then gone back before these,
        because they are damaged or an earlier one was asked for.

        Args:
            step: the number of finished steps.
            tree: {item: tree of arrays}; each item can be restored without the others.
            metadata: anything that JSON can hold.
            wait: whether to return only when the checkpoint is complete on disk.
        Raises:
            UserError: the folder cannot be written, now or in the save before.
        """
        self.wait()
        if step == self._last:
            return
        if METADATA in tree:
            raise ValueError(f"the item name {METADATA!r} is taken")
        ocp = load_orbax()
        contents = _contents(ocp, tree, metadata)
        self._check_space(step, tree)
        self._pending = step
        try:
            if self._manager is None:
                self._put_later_steps_aside(step)
                self._manager = self._open_manager(ocp)
            with jax.transfer_guard("allow"):
                started = self._manager.save(step, args=contents, force=True)
        except Exception as error:
            raise self._failed(error) from error
        if not started:
            raise RuntimeError(f"Orbax skipped the checkpoint of step {step} in {self.folder}")
        self._last = step
        if wait:
            self.wait()

    def wait(self) -> None:
        """Returns when the running save is complete on disk. Raises UserError when it failed."""
        if self._pending is None or self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error
        self._pending = None

    def go_back(self, step: int) -> None:
        """Lets the run go on behind a step: the next save puts aside what is later."""
        self.close()
        self._last = step

    def _open_manager(self, ocp) -> CheckpointManager:
        if self.in_bucket:
            in_buckets.prepare(self.folder, self.steps())
        policies = [ocp.checkpoint_managers.LatestN(self.keep)]
        if self.keep_interval:
            policies.append(ocp.checkpoint_managers.EveryNSteps(self.keep_interval))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            # Remove what a killed run left behind; in a bucket that is done already.
            cleanup_tmp_directories=not self.in_bucket,
            temporary_path_class=in_buckets.temporary_path_class(self.folder),
            # Do not parse the metadata of old checkpoints: they may be damaged.
            lightweight_initialize=True,
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._write_checksums,
                # In a read-only folder this would wait for five minutes.
                create_directories_asynchronously=False,
            ),
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def _write_checksums(self) -> None:
        """Orbax calls this in the background, after all items are written and before the rename."""
        if processes.is_first():
            folder = self.folder / str(self._pending)
            if not self.in_bucket:
                (folder,) = self.folder.glob(f"{self._pending}.orbax-checkpoint-tmp*")
            write_checksums(folder)

    def _put_later_steps_aside(self, step: int) -> None:
        """Renames the checkpoints that the run has gone back before. See `save`."""
        if not self.in_bucket:
            self.folder.mkdir(parents=True, exist_ok=True)
        if processes.is_first():
            last_to_stay = step - 1 if self._last is None else self._last
            for later in [s for s in self.steps() if s > last_to_stay]:
                target = self.folder / f"{later}.replaced"
                storage.move_folder(self._step_folder(later), target, mark=CHECKSUMS)
                log.warning(
                    "%s: the run goes on from before step %d: moved to %s",
                    self.folder,
                    later,
                    target.name,
                )
        processes.wait_for_all("checkpoints set aside")

    def _check_space(self, step: int, tree: dict) -> None:
        """Finds a disk that cannot hold the checkpoint before anything is written to it."""
        if self.in_bucket:
            return
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        needed = size // jax.process_count()
        existing = next(f for f in (self.folder, *self.folder.parents) if f.exists())
        free = shutil.disk_usage(existing).free
        if free < needed:
            raise self._failed(
                f"it takes {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free", step
            )

    def _failed(self, error: Exception | str, step: int | None = None) -> UserError:
        """Gives the space of a failed save back, and returns the error to raise."""
        step = self._pending if step is None else step
        self._pending = self._manager = self._last = None
        if not self.in_bucket:  # there the next start removes it
            for unfinished in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)
        return UserError(
            f"could not write checkpoint {step} in {self.folder}: {_reason(error)}; earlier "
            "checkpoints are untouched: make the folder writable or free some space, then run the "
            "command again"
        )

    # ---- restoring ----

    def look(
        self, step: int | None = None, items: Callable[[dict], list[str]] | None = None
    ) -> tuple[dict, int]:
        """Returns (metadata, step) of the newest checkpoint that can be used, or of `step`.

        It can be used when its metadata are whole, and the items that will be read: a damaged bank
        is no loss to those who want the parameters. Damaged ones are skipped with a warning.

        Args:
            step: None for the newest.
            items: from the metadata to the names of the items that must be whole; None: none.
        Raises:
            UserError: there is no checkpoint, or none that can be used.
        """
        damaged = {}
        for candidate in self._candidates(step):
            metadata, damage = self._look_at(candidate, items)
            if damage is None:
                self._warn_of(damaged, candidate)
                return metadata, candidate
            damaged[candidate] = damage
        raise self._none_readable(damaged)

    def _look_at(
        self, step: int, items: Callable[[dict], list[str]] | None
    ) -> tuple[dict, str | None]:
        """Returns the metadata of a step, and in words what is damaged of it and of its items."""
        damage = self._damage_seen_by_first_process(step, [METADATA])
        if damage is not None:
            return {}, damage
        metadata = self._read_metadata(step)
        needed = items(metadata) if items else []
        if not needed:
            return metadata, None
        return metadata, self._damage_seen_by_first_process(step, needed)

    def _read_metadata(self, step: int) -> dict:
        return json.loads((self._step_folder(step) / METADATA / METADATA).read_text())

    def _warn_of(self, damaged: dict[int, str], chosen: int) -> None:
        """Says in one line which checkpoints are skipped."""
        if damaged:
            log.warning(
                "%s: skipped damaged %s; using step %d", self.folder, _listed(damaged), chosen
            )

    def _none_readable(self, damaged: dict[int, str]) -> UserError:
        """Returns the error for a folder in which all that was tried is damaged."""
        others = [
            step
            for step in self.steps()
            if step not in damaged and find_damage(self._step_folder(step), []) is None
        ]
        advice = "start again in an empty folder"
        if others:
            advice = f"choose one of {others}, or {advice}"
        return UserError(
            f"no readable checkpoint in {self.folder}, damaged: {_listed(damaged)}; {advice}"
        )

    def restore(
        self, like: dict[str, Any], step: int | None = None
    ) -> tuple[dict[str, Any], dict, int]:
        """Reads the items of `like` from the newest undamaged checkpoint, or from `step`.

        Damaged checkpoints are skipped with one warning.

        Args:
            like: {item: tree of arrays or ShapeDtypeStructs}. A leaf with a sharding comes back as
                a `jax.Array` with that sharding, whatever the mesh was that saved it; a leaf
                without one as a NumPy array. Items that are not named are not read. With no items,
                as for a first look at the metadata, a checkpoint counts as undamaged when all its
                files have their size.
            step: None for the newest.
        Returns:
            (tree, metadata, step).
        Raises:
            UserError: there is no checkpoint, none can be read, or the arrays are not those of
                `like`, because they are of another model.
        """
        self.close()  # the next save opens the folder again, and may have to put steps aside
        damaged = {}
        for candidate in self._candidates(step):
            damage = self._damage_seen_by_first_process(candidate, list(like))
            if damage is not None:
                damaged[candidate] = damage
                continue
            folder = self._step_folder(candidate)
            tree = {name: read_item(folder, name, item) for name, item in like.items()}
            self._last = candidate
            self._warn_of(damaged, candidate)
            return tree, self._read_metadata(candidate), candidate
        raise self._none_readable(damaged)

    def _candidates(self, step: int | None) -> list[int]:
        """Returns the steps to try, the best first. Raises UserError when there is none."""
        steps = self.steps()
        if not steps:
            raise UserError(
                f"no checkpoint in {self.folder}: give the folder of a run that has saved one"
            )
        if step is None:
            return steps[::-1]
        if step not in steps:
            raise UserError(f"no checkpoint of step {step} in {self.folder}: choose one of {steps}")
        return [step]

    def _damage_seen_by_first_process(self, step: int, items: list[str]) -> str | None:
        """Lets process 0 decide for all, so that every process reads the same step."""
        damage = None
        if processes.is_first():
            damage = find_damage(self._step_folder(step), items)
        return processes.text_of_first(damage or "") or None


def _contents(ocp, tree: dict[str, Any], metadata: dict):
    """Returns what tells Orbax to write every item, and the metadata."""
    contents = {}
    for name, item in tree.items():
        leaves = to_save(flatten_tree(item))
        if leaves:
            contents[name] = ocp.args.PyTreeSave(nest(leaves))
    contents[METADATA] = ocp.args.JsonSave(metadata)
    return ocp.args.Composite(**contents)


def _listed(damaged: dict[int, str]) -> str:
    return ", ".join(f"step {step} ({damage})" for step, damage in damaged.items())


def _reason(error: Exception | str) -> str:
    """Returns the part of an error that tells a user why a file could not be written."""
    if isinstance(error, str):
        return error
    system = re.search(r"OS error[^\]]*", str(error))  # the end of a long line of TensorStore's
    if system:
        return system[0]
    return storage.reason(error)
