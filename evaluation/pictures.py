"""Pictures of an evaluation: the first samples, and the real images nearest to some of them.

The second shows whether a generator repeats its training images (the paper's B.4).
"""

import pathlib

import numpy as np

from evaluation.reference import Gallery, Reference, flatten_images
from metrics.neighbours import nearest, usual_distance
from utils.figures import save_grid, to_uint8

SHOWN = 64  # samples in the grid
QUERIES = 10  # samples whose neighbours are shown
NEIGHBOURS = 7  # real images beside each of them


class Preview:
    """Collects the first `most` samples as they go by, or all of them (most = None), as uint8."""

    def __init__(self, most: int | None = SHOWN):
        self.most = most
        self.parts: list[np.ndarray] = []

    def __call__(self, images: np.ndarray) -> None:
        """Is shown a batch [B,H,W,C]; one that is not finite is left out, as it has no picture."""
        room = len(images)
        if self.most is not None:
            room = self.most - sum(map(len, self.parts))
        if room > 0 and np.isfinite(images).all():
            self.parts.append(to_uint8(images[:room]))

    @property
    def images(self) -> np.ndarray:
        """The collected samples, uint8 [N,H,W,C]."""
        return np.concatenate(self.parts)


def draw_samples(
    path: pathlib.Path, images: np.ndarray, reference: Reference, title: str
) -> list[pathlib.Path]:
    """Draws the first samples and, where the real images are at hand, their nearest neighbours.

    Args:
        path: the PNG of the samples; *_neighbours.png goes beside it.
        images: samples, uint8 [N,H,W,C].
        reference: its gallery is searched, in its features.
        title: over both pictures.
    Returns:
        The PNG files that were written.
    """
    save_grid(path, images[:SHOWN], columns=8, title=title)
    gallery = reference.gallery
    if gallery is None or images.shape[1:] != gallery.image(0).shape:
        return [path]
    beside = path.with_name(f"{path.stem}_neighbours.png")
    _draw_neighbours(beside, images[:QUERIES], reference, gallery, title)
    return [path, beside]


def _draw_neighbours(
    path: pathlib.Path, queries: np.ndarray, reference: Reference, gallery: Gallery, title: str
) -> None:
    """Draws a row for each sample: the sample itself, then the real images nearest to it."""
    network = reference.network
    if network.params is None:  # pixels are their own features
        features = flatten_images(queries)
    else:
        features = np.asarray(network.features(network.params, queries)["features"])
    count = min(NEIGHBOURS, len(gallery.features))
    order, distances = nearest(features, gallery.features, count)
    tiles = []
    for query, neighbours in zip(queries, order, strict=True):
        tiles.append(query)
        tiles += [gallery.image(int(index)) for index in neighbours]
    usual = usual_distance(gallery.features)
    save_grid(
        path,
        np.stack(tiles),
        columns=1 + count,
        row_labels=[f"nearest at {row[0]:.2f}" for row in distances],
        title=f"{title}: a sample, then the nearest reals; these have one at {usual:.2f}",
    )
