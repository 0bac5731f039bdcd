"""Which metrics an evaluation computes: those of --metrics, or the usual ones."""

from collections.abc import Iterable

from metrics.networks import Network
from metrics.table import METRICS
from utils.errors import UserError
from utils.words import did_you_mean

USUAL = ("fid", "inception_score", "precision_recall", "class_agreement")

# The published means over six networks (`metrics.ratios.SIX`), and the metric in each of them.
OF_SIX = {"fdr6": "fdr", "swr6": "swr"}


def is_of_six(text: str) -> bool:
    """Returns whether --metrics asks for a mean over the six networks of published figures."""
    return any(name.strip() in OF_SIX for name in text.split(","))


def in_each_network(text: str) -> str:
    """Returns --metrics as each network computes them: fdr for fdr6."""
    return ",".join(OF_SIX.get(name.strip(), name) for name in text.split(","))


def parse_metrics(text: str) -> tuple[str, ...]:
    """Returns the names in a comma list, each once and as of one network; () for "".

    Raises:
        UserError: there is no metric of a name.
    """
    if not text:
        return ()
    names = tuple(dict.fromkeys(name.strip() for name in in_each_network(text).split(",")))
    for name in names:
        if name not in METRICS:
            raise UserError(
                f"--metrics {text}: unknown metric {name!r}{did_you_mean(name, METRICS)} "
                f"(known: {', '.join([*METRICS, *OF_SIX])})"
            )
    return names


def choose_metrics(
    wanted: tuple[str, ...],
    network: Network,
    *,
    features: bool,
    classifier: bool,
    held_out: bool,
    held_out_features: bool,
) -> tuple[str, ...]:
    """Returns the wanted metrics or, where none are named, the usual ones that are possible.

    Args:
        wanted: names, all of which must be possible; () = the usual ones.
        network: only Inception gives logits.
        features: whether the reference has the features of each real image.
        classifier: whether the reference has a training split with several classes.
        held_out: whether there are held-out real images beside the reference.
        held_out_features: whether they have the features of each image.
    Raises:
        UserError: a wanted metric needs what the network and the reference do not give.
    """
    available = {
        "moments": True,
        "logits": network.name == "inception",
        "features": features,
        "classifier": classifier,
        "held_out": held_out,
        "held_out_features": held_out_features and features,
    }
    for metric in wanted:
        needed = METRICS[metric].needs
        if not available[needed] and needed.startswith("held_out") and not held_out:
            raise UserError(
                f"--metrics {metric}: it needs held_out reals beside the reference: give "
                "--reference_split train and a --dataset_name that has a held-out split, or "
                "--held_out with images of that kind"
            )
        if not available[needed]:
            raise UserError(
                f"--metrics {metric}: it needs {needed}, which {network.name} with this reference "
                "does not give; leave it out, or give images as the reference"
            )
    return wanted or tuple(metric for metric in USUAL if available[METRICS[metric].needs])


def need_held_out(metrics: Iterable[str]) -> bool:
    """Returns whether one of the metrics compares with held-out real images."""
    return any(METRICS[metric].needs.startswith("held_out") for metric in metrics)


def need_features(metrics: Iterable[str]) -> bool:
    """Returns whether one of the metrics compares images one by one, by their features."""
    return any(METRICS[metric].needs in ("features", "held_out_features") for metric in metrics)
