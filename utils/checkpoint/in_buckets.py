"""What Orbax has to be told where checkpoints are in a bucket.

It writes straight into the folder of the step, and as the last file a mark of its own,
commit_success.txt, into each item and the step. We go by our crc32.json, which comes right before:
a run that was copied from a disk has no such marks.

Orbax finds the driver of TensorStore for gs:// itself. For s3:// it has none, though TensorStore
does, so it is given one.
"""

import functools
import os
import pathlib
from typing import Any

import jax

from utils import processes, storage
from utils.checkpoint.checksums import CHECKSUMS, MARK
from utils.errors import UserError


def prepare(folder: pathlib.Path, complete: list[int]) -> None:
    """Makes the checkpoints in a bucket such as Orbax expects them. All processes must call it.

    What a killed run left unfinished is removed, and what is complete gets Orbax's mark.
    """
    if processes.is_first() and folder.exists():
        for step in [entry for entry in folder.iterdir() if entry.name.isdecimal()]:
            if int(step.name) not in complete:
                storage.remove_folder(step, first=CHECKSUMS)
            elif not (step / MARK).exists():
                storage.write(step / MARK, b"copied or interrupted, and complete by crc32.json")
    processes.wait_for_all("checkpoints prepared")


def temporary_path_class(folder: pathlib.Path) -> Any:
    """Returns how Orbax makes a step appear: in a bucket by its mark; None for its own choice."""
    if not storage.is_bucket(folder):
        return None
    if str(folder).startswith("s3://"):
        teach_s3()
    from orbax.checkpoint.path import atomicity

    return atomicity.CommitFileTemporaryPath


def reader(ocp: Any, folder: pathlib.Path) -> Any:
    """Returns what reads an item of the step in `folder`; whether it is complete is known."""
    options = ocp.options.MultiprocessingOptions()
    if processes.is_alone():  # Orbax waits for all processes otherwise
        own = jax.process_index()
        options = ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"alone_{own}"
        )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    if not storage.is_bucket(folder):
        return ocp.Checkpointer(handler, multiprocessing_options=options)
    if str(folder).startswith("s3://"):
        teach_s3()
    from orbax.checkpoint.path import atomicity

    # Of this one Orbax asks no mark.
    return ocp.Checkpointer(
        handler,
        multiprocessing_options=options,
        temporary_path_class=atomicity.AtomicRenameTemporaryPath,
    )


@functools.cache
def teach_s3() -> None:
    """Gives Orbax the driver of TensorStore for s3://.

    Raises:
        UserError: this version of Orbax does not have the functions that are extended here.
    """
    from orbax.checkpoint._src.path import gcs_utils
    from orbax.checkpoint._src.serialization import tensorstore_utils

    try:
        to_driver = gcs_utils.get_kvstore_for_gcs
        has_driver = tensorstore_utils._use_gcs_driver
        normalize = tensorstore_utils._normalize_path
    except AttributeError:
        raise UserError(
            "this version of orbax-checkpoint cannot be given checkpoints in s3://; "
            "install the one of requirements.lock"
        ) from None

    def to_any_driver(path: str) -> dict[str, Any]:
        if not path.startswith("s3://"):
            return to_driver(path)
        bucket, _, key = path.removeprefix("s3://").partition("/")
        driver = {"driver": "s3", "bucket": bucket, "path": key}
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            driver["endpoint"] = endpoint
        return driver

    def has_any_driver(path: str) -> bool:
        return path.startswith("s3://") or has_driver(path)

    def normalize_any(path: str) -> str:
        if not path.startswith("s3://"):
            return normalize(path)
        return "s3://" + os.path.normpath(path.removeprefix("s3://"))

    gcs_utils.get_kvstore_for_gcs = to_any_driver
    tensorstore_utils._use_gcs_driver = has_any_driver
    tensorstore_utils._normalize_path = normalize_any
