"""Which drifting field a run uses, and with which options: from the flags --drift.*."""

import inspect
from typing import Any

from drifting.fields import FIELDS
from utils import config as config_lib
from utils.errors import UserError
from utils.words import did_you_mean

# Options of the field that is a network and is trained itself.
LEARNED_OPTIONS = ("field_width", "field_projection", "field_lr", "field_ema")


def options_of(field: str) -> tuple[str, ...]:
    """Returns the options of a field: those of its keyword arguments that are flags --drift.*."""
    parameters = inspect.signature(FIELDS[field]).parameters.values()
    names = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return tuple(name for name in names if f"drift.{name}" in config_lib.KEYS)


# The options of all fields, each once.
OPTIONS = tuple(dict.fromkeys(name for field in FIELDS for name in options_of(field)))


def resolve_field(drift: Any) -> dict[str, Any]:
    """Returns what is said of the field, as arguments of `DriftConfig`.

    Args:
        drift: the group of that name of the configuration.
    Raises:
        UserError: the field is unknown, has no use for an option, or cannot work with it.
    """
    check_field(drift)
    # Unless the user says otherwise, the negatives of the sinkhorn field are a second batch, with
    # which it is 0 in expectation where the generator is right, and guidance is added to it.
    is_sinkhorn = drift.field == "sinkhorn"
    second_batch = drift.negatives == "second" or (drift.negatives == "auto" and is_sinkhorn)
    in_field = drift.guidance == "field" or (drift.guidance == "auto" and is_sinkhorn)
    return {
        "field": drift.field,
        "field_options": {name: drift[name] for name in options_of(drift.field)},
        "field_lr": drift.field_lr,
        "second_batch": second_batch,
        "guidance": "field" if in_field else "negatives",
    }


def check_field(drift: Any) -> None:
    """Raises UserError for a field that is not known, or options that do not fit it."""
    if drift.field not in FIELDS:
        raise UserError(
            f"--drift.field {drift.field}: unknown field{did_you_mean(drift.field, FIELDS)} "
            f"(known: {', '.join(FIELDS)})"
        )
    usable = set(options_of(drift.field))
    if drift.field == "learned":
        usable |= set(LEARNED_OPTIONS)
    for name in OPTIONS + LEARNED_OPTIONS:
        is_default = drift[name] == config_lib.KEYS[f"drift.{name}"].default
        if not is_default and name not in usable:
            raise UserError(
                f"--drift.{name} {drift[name]}: the {drift.field} field has no use for it; "
                "leave it out"
            )
    if drift.field == "uncoupled" and drift.normalize == "none":
        raise UserError(
            "--drift.normalize none: the uncoupled field is one whose rows sum to 1; "
            "give both or y, or --drift.field kernel"
        )
    if drift.bias_correction and drift.normalize == "none":
        raise UserError(
            "--drift.bias_correction 1: sums that are not normalised have no bias to correct; "
            "leave it out, or give --drift.normalize both or y"
        )
    check_energy(drift)
    if drift.iterations % 0.5:
        raise UserError(
            f"--drift.iterations {drift.iterations}: expected a multiple of 0.5, "
            "half an iteration being one of the two updates"
        )


def check_energy(drift: Any) -> None:
    """Raises UserError where --drift.kernel energy has no meaning."""
    if drift.kernel != "energy":
        return
    if drift.field != "mmd":
        raise UserError(
            f"--drift.kernel energy: -|x - y| is not a kernel of the {drift.field} field; "
            "give laplace or gaussian, or --drift.field mmd"
        )
    if len(drift.temperatures) > 1:
        temperatures = ",".join(map(str, drift.temperatures))
        raise UserError(
            f"--drift.temperatures {temperatures}: the energy kernel has no width, so each would "
            "be the same; give one, --drift.temperatures 1"
        )
