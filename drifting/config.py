"""The numbers of a training step."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from drifting.battery import ONE_ENCODER, Battery
from drifting.memory import NOTHING, Memory


def _weight_one(name: str) -> float:
    return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftConfig:
    """The numbers of a step, by the paper's names (Table 8)."""

    # How many samples. The loss compares within one class, so these are counted per class.
    n_classes: int  # classes of the data set
    n_c: int  # N_c: classes in a step
    class_shares: tuple[float, ...] = ()  # how often each class is drawn, summing to 1; () is alike
    n_neg: int  # N_neg: generated samples per class; they are each other's negatives
    n_pos: int  # N_pos: real samples per class; the length of the bank's queue takes all
    n_unc: int  # N_unc: unconditional real samples per class, the negatives of guidance

    joint: float = 0.0  # of conditions (conditions.py): the weight W of a condition beside the
    #                     features; 0: groups of the nearest conditions

    # Guidance: p(alpha) ~ alpha^-alpha_power on [alpha_min, alpha_max], and 1 with a probability.
    alpha_min: float
    alpha_max: float
    alpha_power: float
    no_cfg_frac: float  # probability of alpha = 1
    guidance: str = "negatives"  # unconditional reals join the negatives; or "field": they add
    #                              (alpha - 1) V_{p,unc} to the field

    # The field.
    temperatures: tuple[float, ...]  # tau
    temperature_factors: tuple[float, float] = (1.0, 1.0)  # of all temperatures, in the first step
    #                                                        and in the last
    max_steps: int = 0  # the length of the training, over which the factor goes
    field: str | Callable  # a name in drifting.fields.FIELDS, or a function of that signature
    field_options: dict = dataclasses.field(default_factory=dict)  # kernel, iterations, ...
    memory: Memory = NOTHING  # what the field keeps from step to step, if anything
    second_batch: bool = False  # the negatives are a second generated batch, without gradient,
    #                             and not the samples themselves

    # The loss.
    set_weight: Callable[[str], float] = _weight_one  # weight of a feature set, by its name
    battery: Battery = ONE_ENCODER  # the encoders, where they are several
    monitor: str = ""  # the feature set of the energy distance and the diversity, which has one
    #                    vector per image; "" takes the last of these by name

    # The samples.
    style_shape: tuple[int, int]  # style codebooks and their size (A.2); (0, 0) for none
    class_dropout_prob: float = 0.0  # probability that a class becomes the null class, whose
    #                                  positives are of any class
    flip: bool = False  # mirror real images at random
    sample_shape: tuple[int, ...] = ()  # of a generated sample; () is that of the reals

    # Memory: the step can go through its samples one part after another (accumulate.py).
    groups: int = 1  # K groups of classes
    exact_scales: bool = False  # pool the scalars of the loss over all groups
    row_parts: int = 1  # K parts of the samples of each class

    @property
    def positives(self) -> int:
        """The positives of a sample: reals of its class or, with the joint, of all conditions."""
        return self.n_c * self.n_pos if self.joint else self.n_pos


def temperature_factor(config: DriftConfig, step: jax.Array) -> jax.Array | None:
    """Returns the factor of all temperatures in a step; None where it is always 1.

    With t from 0 in the first step to 1 in the last it is first^(1 - t) last^t, so
    that each step changes it by the same ratio.

    step: the steps taken so far.
    """
    first, last = config.temperature_factors
    if first == last == 1:
        return None
    t = jnp.clip(step / max(config.max_steps - 1, 1), 0, 1)
    return first ** (1 - t) * last**t
