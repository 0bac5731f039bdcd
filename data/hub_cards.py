"""Well-known data sets of the Hugging Face hub, by what their cards say: nothing is read for it.

One entry of CARDS gives a data set of the hub a short name. Beside it, each has a recipe in
`configs/` and a script `scripts/train_NAME.sh`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Card:
    """A data set of the hub.

    Attributes:
        repo: Where it is on the hub, as owner/name.
        image: The column of images.
        label: The column of labels, or "none" for a set that is used without.
        train: (name of the split, its samples) to learn from.
        test: (name of the split, its samples) that is held out.
        size: Side of the square images in pixels, as the recipe uses them.
        channels: 1 for grey, 3 for colour.
        n_classes: Number of classes.
        gated: Its terms have to be accepted on its page before it can be fetched.
        balanced: Every class has as many samples.
        counts: Samples per class of the training split, where they differ and are known.
    """

    repo: str
    image: str
    label: str
    train: tuple[str, int]
    test: tuple[str, int]
    size: int
    channels: int
    n_classes: int
    gated: bool = False
    balanced: bool = False
    counts: tuple[int, ...] | None = None

    @property
    def own_names(self) -> dict[str, str]:
        """What the data set calls the splits "train" and "test"."""
        return {"train": self.train[0], "test": self.test[0]}


IMAGENET = Card(
    repo="ILSVRC/imagenet-1k",
    image="image",
    label="label",
    train=("train", 1_281_167),
    test=("validation", 50_000),
    size=256,
    channels=3,
    n_classes=1000,
    gated=True,
)

CARDS = {
    "mnist": Card(
        repo="ylecun/mnist",
        image="image",
        label="label",
        train=("train", 60_000),
        test=("test", 10_000),
        size=28,
        channels=1,
        n_classes=10,
        counts=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    ),
    "fashion_mnist": Card(
        repo="zalando-datasets/fashion_mnist",
        image="image",
        label="label",
        train=("train", 60_000),
        test=("test", 10_000),
        size=28,
        channels=1,
        n_classes=10,
        balanced=True,
    ),
    "cifar10": Card(
        repo="uoft-cs/cifar10",
        image="img",
        label="label",
        train=("train", 50_000),
        test=("test", 10_000),
        size=32,
        channels=3,
        n_classes=10,
        balanced=True,
    ),
    "cifar100": Card(
        repo="uoft-cs/cifar100",
        image="img",
        label="fine_label",
        train=("train", 50_000),
        test=("test", 10_000),
        size=32,
        channels=3,
        n_classes=100,
        balanced=True,
    ),
    "tiny_imagenet": Card(
        repo="zh-plus/tiny-imagenet",
        image="image",
        label="label",
        train=("train", 100_000),
        test=("valid", 10_000),
        size=64,
        channels=3,
        n_classes=200,
        balanced=True,
    ),
    "imagenet64": dataclasses.replace(IMAGENET, size=64),
    "imagenet256": IMAGENET,
    # Its labels are the sex; the FIDs in the literature are unconditional.
    "celebahq256": Card(
        repo="korexyz/celeba-hq-256x256",
        image="image",
        label="none",
        train=("train", 28_000),
        test=("validation", 2_000),
        size=256,
        channels=3,
        n_classes=1,
    ),
}
