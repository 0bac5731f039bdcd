"""Which metrics are computed."""

from metrics.table import METRICS
from utils.errors import UserError
from utils.words import did_you_mean

USUAL = ("fid", "inception_score", "precision_recall", "class_agreement")


def parse_metrics(text: str) -> tuple[str, ...]:
    """The names in a comma list; () for none."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(","))) if text else ()
    for name in names:
        if name not in METRICS:
            raise UserError(
                f"--metrics {text}: unknown metric {name!r}{did_you_mean(name, METRICS)} (known: {', '.join(METRICS)})"
            )
    return names


def choose_metrics(wanted, network, *, features: bool, classifier: bool) -> tuple[str, ...]:
    """The wanted metrics, all possible; or the usual ones that are."""
    have = {
        "moments": True,
        "logits": network.name == "inception",
        "features": features,
        "classifier": classifier,
    }
    missing = next((m for m in wanted if not have[METRICS[m].needs]), None)
    if missing:
        raise UserError(
            f"--metrics {missing}: it needs {METRICS[missing].needs}, which {network.name} with this reference does not give; leave it out, or give images as the reference"
        )
    return wanted or tuple(m for m in USUAL if have[METRICS[m].needs])
