"""TensorBoard as a tracker, see `utils/trackers.py`: event files without TensorFlow.

They are written by the package tensorboard itself, which also shows them:

    tensorboard --logdir runs
"""

import logging
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from PIL import Image

from utils import storage
from utils.errors import UserError
from utils.packages import need
from utils.trackers import REQUIREMENTS, RunFacts

log = logging.getLogger(__name__)

FLUSH_SECONDS = 10  # after which a line is in the file


class TensorBoardRun:
    """The event files of a run, in its folder `tensorboard/`."""

    def __init__(self, facts: RunFacts):
        writer, self._events, self._summaries = (
            need(f"tensorboard.{module}", "--log tensorboard needs it", REQUIREMENTS)
            for module in (
                "summary.writer.event_file_writer",
                "compat.proto.event_pb2",
                "compat.proto.summary_pb2",
            )
        )
        if storage.is_bucket(facts.folder):
            raise UserError("its files grow, which those of a bucket cannot: see docs/scale.md")
        folder = facts.folder / "tensorboard"
        self._writer = writer.EventFileWriter(str(folder), flush_secs=FLUSH_SECONDS)
        # From here on steps count anew: TensorBoard drops what earlier files say of them.
        session = self._events.SessionLog
        self._add(facts.resume_step + 1, session_log=session(status=session.START))
        log.info("tensorboard --logdir %s", facts.folder)

    def log(self, record: Mapping[str, Any]) -> None:
        """Logs the numbers of one record."""
        values = []
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                values.append({"tag": name, "simple_value": value})
        self._add(record["step"], summary=self._summaries.Summary(value=values))

    def image(self, step: int, name: str, path: str | os.PathLike) -> None:
        """Shows a picture file."""
        with Image.open(path) as picture:
            width, height = picture.size
        image: dict[str, Any] = {"height": height, "width": width, "colorspace": 3}
        image["encoded_image_string"] = pathlib.Path(path).read_bytes()
        self._add(step, summary=self._summaries.Summary(value=[{"tag": name, "image": image}]))

    def finish(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _add(self, step: int, **content: Any) -> None:
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=step, **content))
