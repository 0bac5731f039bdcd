"""Which drifting field a run uses, and with which options: from the flags --drift.*."""

import math
from collections.abc import Mapping
from typing import Any

import jax

from drifting.fields import FIELDS
from drifting.memory import Memory
from drifting.temperature import START, Temperatures
from training.run_folder import in_words
from utils import config as config_lib
from utils.errors import UserError
from utils.words import did_you_mean


def options_of(field: str) -> tuple[str, ...]:
    """Returns the options of a field: those of its keyword arguments that are flags --drift.*.

    What its memory tells it are keyword arguments too.
    """
    names = FIELDS[field].field_options
    return tuple(name for name in names if f"drift.{name}" in config_lib.KEYS)


# The options of all fields and of their memories, each once. Every field has temperatures.
OPTIONS = tuple(
    dict.fromkeys(
        name
        for field, discrepancy in FIELDS.items()
        for name in options_of(field) + discrepancy.memory_options
        if name != "temperatures"
    )
)


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
        "memory": make_memory(drift),
        "temperatures": (START,) if is_learned(drift) else tuple(drift.temperatures),
        "temperature_factors": temperature_factors(drift),
        "second_batch": second_batch,
        "guidance": "field" if in_field else "negatives",
    }


def is_learned(drift: Any) -> bool:
    """Returns whether the temperatures are learned."""
    return drift["temperatures"] == "learned"


def make_memory(drift: Any) -> Memory:
    """Returns the memory of the field, made of the flags of its own, or of its temperatures."""
    if is_learned(drift):
        return Temperatures(drift["neighbours"], drift["kernel"])
    discrepancy = FIELDS[drift["field"]]
    return discrepancy.memory(**{name: drift[name] for name in discrepancy.memory_options})


def keeps_state(drift: Any) -> bool:
    """Returns whether the field, or its temperatures, keep something from step to step."""
    return make_memory(drift).init(jax.random.key(0), {}, 1) is not None


def settings_of_state(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the settings that decide what the field of a run keeps; none where it keeps nothing.

    Args:
        settings: of the run, flat. What is missing has its default.
    """
    drift = {
        name.removeprefix("drift."): settings.get(name, key.default)
        for name, key in config_lib.KEYS.items()
        if name.startswith("drift.")
    }
    if drift["field"] not in FIELDS:
        return ()
    if is_learned(drift):
        return ("drift.temperatures",)
    if not keeps_state(drift):
        return ()
    options = FIELDS[drift["field"]].memory_options
    return ("drift.field", *(f"drift.{name}" for name in options))


def check_field(drift: Any) -> None:
    """Raises UserError for a field that is not known, or options that do not fit it."""
    if drift.field not in FIELDS:
        raise UserError(
            f"--drift.field {drift.field}: unknown field{did_you_mean(drift.field, FIELDS)} "
            f"(known: {', '.join(FIELDS)})"
        )
    usable = options_of(drift.field) + FIELDS[drift.field].memory_options
    for name in OPTIONS:
        default = config_lib.KEYS[f"drift.{name}"].default
        if drift[name] != default and name not in usable:
            raise UserError(
                f"--drift.{name} {drift[name]}: the {drift.field} field has no use for it; "
                f"leave it out, or give {in_words(default)} where a run goes on with it"
            )
    check_learned(drift)
    if drift.landmarks == 1:
        raise UserError(
            "--drift.landmarks 1: the width of the kernel is the mean distance of landmarks, and "
            "one has none; give 2 or more, or 0"
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
    if drift.moments_file and drift.field != "frechet":
        raise UserError(
            f"--drift.moments_file {drift.moments_file}: the {drift.field} field has no use for "
            "it; leave it out"
        )
    if drift.field == "frechet":
        check_frechet(drift)
    if drift.iterations % 0.5:
        raise UserError(
            f"--drift.iterations {drift.iterations}: expected a multiple of 0.5, "
            "half an iteration being one of the two updates"
        )


def check_learned(drift: Any) -> None:
    """Raises UserError for learned temperatures that the field has not, and for what they need."""
    if not is_learned(drift):
        default = config_lib.KEYS["drift.neighbours"].default
        if drift.neighbours != default:
            raise UserError(
                f"--drift.neighbours {drift.neighbours:g}: for --drift.temperatures learned alone; "
                f"leave it out, or give {in_words(default)} where a run goes on with it"
            )
        return
    takers = [name for name, discrepancy in FIELDS.items() if discrepancy.takes_learned]
    if drift.field not in takers:
        raise UserError(
            f"--drift.temperatures learned: the {drift.field} field has no softmax kernel whose "
            f"temperature could be learned (those that have: {', '.join(takers)}); give numbers"
        )
    if drift.temperature_schedule:
        raise UserError(
            f"--drift.temperature_schedule {drift.temperature_schedule}: learned temperatures "
            "follow no schedule; leave it out"
        )


def temperature_factors(drift: Any) -> tuple[float, float]:
    """Returns the factors of the temperatures at the start and at the end of the training.

    Raises UserError for a schedule that cannot be read, or that means nothing to the field.
    """
    text = drift.temperature_schedule
    if not text:
        return 1.0, 1.0
    told = f"--drift.temperature_schedule {text}"
    try:
        start, end = (float(word) for word in text.split(":"))
    except ValueError:
        start = end = math.nan
    if not (0 < start < math.inf and 0 < end < math.inf):
        raise UserError(
            f"{told}: expected START:END, two factors above 0 of all --drift.temperatures, "
            "such as 10:1"
        )
    if 1 not in (start, end):
        temperatures = ",".join(f"{end * tau:g}" for tau in drift.temperatures)
        raise UserError(
            f"{told}: expected factors of --drift.temperatures, one of them 1; for these give "
            f"--drift.temperatures {temperatures} --drift.temperature_schedule {start / end:g}:1"
        )
    reason = ""
    if drift.field == "frechet":
        reason = "the frechet field has no temperature"
    elif drift.kernel == "energy":
        reason = "the energy kernel has no width"
    elif drift.landmarks:
        reason = f"--drift.landmarks {drift.landmarks} freezes the kernel"
    if reason:
        raise UserError(f"{told}: {reason}; leave it out")
    return start, end


def check_frechet(drift: Any) -> None:
    """Raises UserError for what moments have no use for."""
    if drift.alpha_max > 1:
        raise UserError(
            f"--drift.alpha_max {drift.alpha_max:g}: the frechet field has no guidance, its reals "
            "are all that there are; give --drift.alpha_max 1"
        )
    if drift.moments_file and drift.moments != "all":
        raise UserError(
            f"--drift.moments_file {drift.moments_file}: it has the moments of all samples "
            "together, not of each class; give --drift.moments all"
        )
    if drift.negatives == "second":
        raise UserError(
            "--drift.negatives second: the frechet field has moments in the place of negatives; "
            "leave it out"
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
