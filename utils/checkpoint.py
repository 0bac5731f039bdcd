"""Checkpoints of a run, and the flag that asks it to stop. The only module that knows Orbax.

    <step>/<item>/...          one Orbax PyTree (OCDBT) per item: "params", "ema_0.999", "opt_state", "bank"
    <step>/metadata/metadata   JSON
    <step>/crc32.json          size and CRC-32 of every file above (Orbax does not notice flipped bits)

A step folder appears by one rename after all of it is written, so a folder with a number as its name is
complete. Reading needs no manager and never writes, so a run can be evaluated while it trains.
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import re
import shutil
import zlib
from typing import Any

import jax
import numpy as np

from utils.errors import UserError

log = logging.getLogger(__name__)

SUMS = "crc32.json"
METADATA = "metadata"
AFTER_SUMS = (
    "_CHECKPOINT_METADATA",
    "commit_success.txt",
)  # files that Orbax writes last; not read here


class Checkpoints:
    """The checkpoints of one run.

    folder: created at the first save.  keep: how many of the newest stay.  keep_interval: every
    checkpoint whose step is a multiple of it stays for good (0: none does).  Use it in a `with` block or
    call `close`: Python does not wait for a running save when it exits.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 3, keep_interval: int = 0):
        self.folder = pathlib.Path(folder).absolute()
        self.keep, self.keep_interval = keep, keep_interval
        self._manager = None
        self._pending = None  # the step being written in the background
        self._last = None  # the step that this object saved or restored last

    def save(self, step: int, tree: dict[str, Any], metadata: dict, wait: bool = False) -> None:
        """Copies the arrays of `tree` to the host, then writes them in the background.

        The caller may donate or overwrite the buffers as soon as this returns. Every key of `tree`
        becomes an item that restores on its own; leaves are arrays (also typed keys), `metadata` goes
        through JSON. A save that is still running is waited for, never skipped; the step saved or
        restored last is not saved again. All processes must call this. Raises UserError when the folder
        cannot be written, also when it was the previous save that failed.

        The first save puts aside (`<step>.replaced`) what is later than the restored step, or not earlier
        than `step` where none was restored: the run has gone back before it, because it is damaged or an
        earlier one was asked for.
        """
        self.wait()
        if step == self._last:
            return
        if METADATA in tree:
            raise ValueError(f"the item name {METADATA!r} is taken")
        ocp = _orbax()
        items = {name: _stored(_flat(item)) for name, item in tree.items()}
        items = {name: ocp.args.PyTreeSave(_nested(item)) for name, item in items.items() if item}
        items[METADATA] = ocp.args.JsonSave(metadata)
        self._check_space(step, tree)
        self._pending = step
        try:
            if self._manager is None:
                self._set_aside(step)
                self._manager = self._open(ocp)
            with jax.transfer_guard("allow"):
                started = self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except Exception as error:
            raise self._failed(error) from error
        if not started:
            raise RuntimeError(f"Orbax skipped the checkpoint of step {step} in {self.folder}")
        self._last = step
        if wait:
            self.wait()

    def wait(self) -> None:
        """Returns when the running save is complete on disk. Raises UserError when it failed."""
        if self._pending is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error
        self._pending = None

    def close(self) -> None:
        """Waits for the running save and ends the background threads."""
        self.wait()
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending; damaged ones are in the list."""
        if not self.folder.is_dir():
            return []
        return sorted(
            int(entry.name)
            for entry in self.folder.iterdir()
            if entry.name.isdecimal() and entry.is_dir()
        )

    def latest(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps(), default=None)

    def items(self, step: int) -> list[str]:
        """Names of the items of a checkpoint, such as "params". Raises UserError when it is damaged."""
        damage = self._damage(step, [])
        if damage:
            raise UserError(
                f"checkpoint {self.folder / str(step)} is damaged ({damage}): choose one of {self.steps()}"
            )
        return self._items(step)

    def restore(
        self, like: dict[str, Any], step: int | None = None
    ) -> tuple[dict[str, Any], dict, int]:
        """Reads the items of `like` from the newest undamaged checkpoint, or from `step`.

        like: {item: pytree of arrays or ShapeDtypeStructs}. A leaf with a sharding comes back as a
        `jax.Array` with that sharding, whatever the mesh was that saved it; a leaf without one as a NumPy
        array. Items not named are not read; with none, as a first look at the metadata, a checkpoint
        counts as undamaged when all its files have their size.
        Returns (tree, metadata, step). Damaged checkpoints are skipped with one warning.
        Raises UserError when there is none, none can be read, or the arrays are not those of `like`
        (another model).
        """
        self.close()  # the next save opens the folder again, and may have to go back before newer steps
        steps = self.steps()
        if not steps:
            raise UserError(
                f"no checkpoint in {self.folder}: give the folder of a run that has saved one"
            )
        if step is not None and step not in steps:
            raise UserError(f"no checkpoint of step {step} in {self.folder}: choose one of {steps}")
        damaged = {}
        for candidate in [step] if step is not None else reversed(steps):
            damage = _from_first_process(
                self._damage(candidate, list(like)) if jax.process_index() == 0 else None
            )
            if damage is None:
                tree = {name: self._read(candidate, name, item) for name, item in like.items()}
                metadata = json.loads(
                    (self.folder / str(candidate) / METADATA / METADATA).read_text()
                )
                self._last = candidate
                if damaged:
                    log.warning(
                        "%s: skipped damaged %s; using step %d",
                        self.folder,
                        _listed(damaged),
                        candidate,
                    )
                return tree, metadata, candidate
            damaged[candidate] = damage
        raise UserError(
            f"no readable checkpoint in {self.folder}, damaged: {_listed(damaged)}; "
            f"choose one of {steps} or start again in an empty folder"
        )

    def _open(self, ocp):
        policies = [ocp.checkpoint_managers.LatestN(self.keep)]
        if self.keep_interval:
            policies.append(ocp.checkpoint_managers.EveryNSteps(self.keep_interval))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,  # what a killed run left behind
            lightweight_initialize=True,  # old checkpoints may be damaged: do not parse their metadata
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._write_sums,
                create_directories_asynchronously=False,  # else 5 minutes of waiting in a read-only folder
            ),
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def _set_aside(self, step: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            kept = step - 1 if self._last is None else self._last
            for later in [s for s in self.steps() if s > kept]:
                target = self.folder / f"{later}.replaced"
                shutil.rmtree(target, ignore_errors=True)
                (self.folder / str(later)).rename(target)
                log.warning(
                    "%s: the run goes on from before step %d: moved to %s",
                    self.folder,
                    later,
                    target.name,
                )
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("checkpoints set aside")

    def _check_space(self, step: int, tree: dict) -> None:
        """A disk that cannot hold the checkpoint is found before anything is written to it."""
        needed = (
            sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
            // jax.process_count()
        )
        there = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        free = shutil.disk_usage(there).free
        if free < needed:
            raise self._failed(
                f"it takes {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free", step
            )

    def _failed(self, error: Exception | str, step: int | None = None) -> UserError:
        step = self._pending if step is None else step
        self._pending = self._manager = self._last = None
        for rest in self.folder.glob(
            f"{step}.orbax-checkpoint-tmp*"
        ):  # gives the space back on a full disk
            shutil.rmtree(rest, ignore_errors=True)
        system = re.search(r"OS error[^\]]*", str(error))  # the end of a long line of TensorStore's
        reason = (
            error
            if isinstance(error, str)
            else system[0]
            if system
            else " ".join(f"{type(error).__name__}: {error}".split())[:300]
        )
        return UserError(
            f"could not write checkpoint {step} in {self.folder}: {reason}; earlier checkpoints are "
            f"untouched: make the folder writable or free some space, then run the command again"
        )

    def _write_sums(self) -> None:
        """Called by Orbax, in the background, when all items are written, before the rename."""
        if jax.process_index() != 0:
            return
        (folder,) = self.folder.glob(f"{self._pending}.orbax-checkpoint-tmp*")
        names = (
            file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
        )
        sums = {name: _sum(folder / name) for name in sorted(names) if name not in AFTER_SUMS}
        (folder / SUMS).write_text(json.dumps({"crc32": _sum_of(sums), "files": sums}))

    def _sums(self, step: int) -> dict[str, list[int]]:
        content = json.loads((self.folder / str(step) / SUMS).read_text())
        if content["crc32"] != _sum_of(content["files"]):
            raise ValueError(f"{SUMS} was changed")
        return content["files"]

    def _items(self, step: int) -> list[str]:
        return sorted({name.split("/")[0] for name in self._sums(step)} - {METADATA})

    def _damage(self, step: int, items: list[str]) -> str | None:
        """What is wrong with the files of these items or the metadata; None when all is well."""
        try:
            for name, (size, crc) in self._sums(step).items():
                file, item = self.folder / str(step) / name, name.split("/")[0]
                if (not items or item in (*items, METADATA)) and file.stat().st_size != size:
                    return f"{name} was truncated"
                if item in (*items, METADATA) and _sum(file) != [size, crc]:
                    return f"{name} was changed"
        except FileNotFoundError as error:
            return f"{pathlib.Path(error.filename).relative_to(self.folder / str(step))} is missing"
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{SUMS}: {error}"
        return None

    def _read(self, step: int, name: str, like: Any) -> Any:
        ocp = _orbax()
        where = self.folder / str(step)
        leaves = _flat(like)
        wanted = _stored(leaves, abstract=True)
        items = self._items(step)
        if wanted and name not in items:
            raise UserError(f"{where} has no {name!r}: it has {', '.join(items)}")
        reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        saved = _flat(reader.metadata(where / name).item_metadata.tree) if name in items else {}
        for path in sorted(saved.keys() | wanted.keys()):
            there, here = _describe(saved.get(path)), _describe(wanted.get(path))
            if there != here:
                raise UserError(
                    f"{where} was made with another model, other settings or another version: {name}/{path} is {there} in the "
                    f"checkpoint and {here} now; give the flags of its config.json, or another --save_dir"
                )
        arrays = {}
        if wanted:
            targets = {path: _restore_args(ocp, leaf) for path, leaf in wanted.items()}
            arrays = reader.restore(
                where / name,
                args=ocp.args.PyTreeRestore(item=_nested(wanted), restore_args=_nested(targets)),
            )
            arrays = _flat(arrays)
        restored = [
            _as_key(arrays[path], leaf) if path in arrays else _empty(leaf)
            for path, leaf in leaves.items()
        ]
        return jax.tree.unflatten(jax.tree.structure(like), restored)


def _orbax():
    """Orbax, imported late (0.4 s) and without its log lines: its errors come as exceptions."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(_not_orbax)
    return ocp


def _not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def _flat(tree: Any) -> dict[str, Any]:
    """{"path/of/leaf": leaf} in the order of jax.tree.leaves; fields by name or index."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/") or "value": leaf
        for path, leaf in leaves
    }


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)


def _stored(flat: dict[str, Any], abstract: bool = False) -> dict[str, Any]:
    """What goes to disk: typed keys as uint32 words, no empty arrays (Orbax refuses those)."""

    def words(key):
        if not abstract:
            return jax.random.key_data(key)
        data = jax.eval_shape(jax.random.key_data, key)
        return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=getattr(key, "sharding", None))

    return {
        path: words(leaf) if _is_key(leaf) else leaf
        for path, leaf in flat.items()
        if 0 not in np.shape(leaf)
    }


def _empty(like: Any) -> Any:
    array = np.zeros(like.shape, like.dtype)
    sharding = getattr(like, "sharding", None)
    return array if sharding is None else jax.device_put(array, sharding)


def _as_key(array: Any, like: Any) -> Any:
    return jax.random.wrap_key_data(array, impl=like.dtype._impl.name) if _is_key(like) else array


def _restore_args(ocp, leaf: Any):
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def _describe(leaf: Any) -> str:
    return "missing" if leaf is None else f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _sum(file: pathlib.Path) -> list[int]:
    """[size in bytes, CRC-32]"""
    size = crc = 0
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]


def _sum_of(sums: dict[str, list[int]]) -> int:
    return zlib.crc32(json.dumps(sums, sort_keys=True).encode())


def _listed(damaged: dict[int, str]) -> str:
    return ", ".join(f"step {step} ({damage})" for step, damage in damaged.items())


def _from_first_process(text: str | None) -> str | None:
    """Process 0 decides for all, so that every process reads the same step."""
    if jax.process_count() == 1:
        return text
    from jax.experimental import multihost_utils

    buffer = np.frombuffer((text or "").encode()[:256].ljust(256), np.uint8)
    return (
        bytes(multihost_utils.broadcast_one_to_all(buffer)).decode(errors="replace").strip() or None
    )
