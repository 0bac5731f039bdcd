"""The images of a data set, as a reference needs them."""

import numpy as np

from data import pipeline
from utils import config as config_lib
from utils.errors import UserError


class DatasetImages:
    """The images of a data set by index, None for one that cannot be read. Labels are noted as images are read: a second reading would take as long as the first."""

    def __init__(self, dataset):
        if dataset.dtype != "uint8":
            raise UserError(
                f"--dataset_name {dataset.name} holds latents, which the networks do not take; give --fid_stats of its images"
            )
        self.source, self.name, self.shape = pipeline.Readable(dataset), dataset.name, dataset.shape
        self.labels = np.full(len(self.source), -1, np.int32)

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        sample = self.source.get(i)
        if sample is None:
            return None
        self.labels[i] = sample["label"]
        return sample["image"]


def data_options(given: dict, dataset_name: str, run=None):
    """The group `data` of the run, if it is of this data set, or of the recipe; with what the command line adds."""
    flags = {k: v for k, v in given.items() if k.startswith("data.")}
    base = (
        run.data
        if run and run.dataset_name == dataset_name
        else config_lib.resolve({"dataset_name": dataset_name}).data
    )
    return dict(base) | {k.removeprefix("data."): v for k, v in flags.items()}
