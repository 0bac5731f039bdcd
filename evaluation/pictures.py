"""Pictures of an evaluation: the first samples, and the real images nearest to some of them (memorisation; the paper's B.4)."""

import pathlib

import numpy as np

from evaluation.reference import Reference
from metrics.collect import to_float
from metrics.neighbours import nearest, usual_distance
from utils.figures import save_grid, to_uint8

SHOWN, QUERIES, NEIGHBOURS = (
    64,
    10,
    7,
)  # samples in the grid; samples with neighbours; real images beside each


class Preview:
    """Keeps the first samples, or all of them (most = None), as they go by."""

    def __init__(self, most: int | None = SHOWN):
        self.most, self.parts = most, []

    def __call__(self, images):
        room = len(images) if self.most is None else self.most - sum(map(len, self.parts))
        if room > 0 and np.isfinite(images).all():
            self.parts.append(to_uint8(images[:room]))

    @property
    def images(self) -> np.ndarray:
        return np.concatenate(self.parts)


def draw_samples(
    path: pathlib.Path, images: np.ndarray, reference: Reference, title: str
) -> list[pathlib.Path]:
    """A grid of the first samples at `path`, a PNG, and *_neighbours.png beside it, where the real images are at hand. images: uint8 [N,H,W,C]."""
    drawn = [path]
    save_grid(path, images[:SHOWN], columns=8, title=title)
    gallery = reference.gallery
    if gallery is not None and images.shape[1:] == gallery.image(0).shape:
        queries = images[:QUERIES]
        if reference.network.params is None:
            found = to_float(queries).reshape(len(queries), -1)
        else:
            found = np.asarray(
                reference.network.features(reference.network.params, queries)["features"]
            )
        order, distances = nearest(found, gallery.features, min(NEIGHBOURS, len(gallery.features)))
        tiles = [
            tile
            for q, row in zip(queries, order)
            for tile in (q, *(gallery.image(int(i)) for i in row))
        ]
        drawn.append(path.with_name(f"{path.stem}_neighbours.png"))
        save_grid(
            drawn[1],
            np.stack(tiles),
            columns=1 + order.shape[1],
            row_labels=[f"nearest at {d[0]:.2f}" for d in distances],
            title=f"{title}: a sample, then the nearest reals; these have one at {usual_distance(gallery.features):.2f}",
        )
    return drawn
