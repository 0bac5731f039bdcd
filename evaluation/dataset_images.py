"""The images of a data set, as a reference and the networks take them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data import Dataset, pipeline
from utils import config as config_lib
from utils.errors import UserError


class DatasetImages:
    """The images of a data set by index; None for one that cannot be read (`RealImages`).

    Attributes:
        name: of the data set.
        shape: (H, W, C).
        labels: int32 [N], noted as the images are read, because a second reading would take as long
            as the first. Those of images that were not read, or could not be, are -1.
    """

    def __init__(self, dataset: Dataset):
        if dataset.dtype != "uint8":
            raise UserError(
                f"--dataset_name {dataset.name} holds latents, which the networks do not take; "
                "give --fid_stats of its images"
            )
        self.name = dataset.name
        self.shape = dataset.shape
        self._samples = pipeline.Readable(dataset)
        self.labels = np.full(len(self._samples), -1, np.int32)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> np.ndarray | None:
        sample = self._samples.get(index)
        if sample is None:
            return None
        self.labels[index] = sample["label"]
        return sample["image"]


def data_options(
    given: Mapping[str, Any], dataset_name: str, run: ConfigDict | None = None
) -> dict[str, Any]:
    """Returns the options of group `data` with which a data set is read.

    They are those of the run if it learned from this data set, and otherwise those of its recipe;
    the command line goes over both.

    Args:
        given: the flags on the command line, {"data.image_size": 64, ...}.
        dataset_name: what is read.
        run: the configuration of the run that is scored.
    """
    if run and run.dataset_name == dataset_name:
        options = run.data
    else:
        options = config_lib.resolve({"dataset_name": dataset_name}).data
    on_command_line = {
        name.removeprefix("data."): value
        for name, value in given.items()
        if name.startswith("data.")
    }
    return dict(options) | on_command_line
