"""The numbers of a training step."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftConfig:
    """The numbers of a step, by the paper's names (Table 8)."""

    n_classes: int  # classes of the data set
    n_c: int  # N_c: classes in a step
    n_neg: int  # N_neg: generated samples per class; they are each other's negatives
    n_pos: int  # N_pos: real samples per class; the bank's queue length takes all
    n_unc: int  # N_unc: unconditional real samples per class, the negatives of guidance
    alpha_min: float  # guidance scale: p(alpha) ~ alpha^-alpha_power on [alpha_min, alpha_max] ...
    alpha_max: float
    alpha_power: float
    no_cfg_frac: float  # ... and 1 with this probability
    temperatures: tuple[float, ...]  # tau
    field: str | Callable  # a name in drifting.fields.FIELDS, or a function
    style_shape: tuple[int, int]  # codebooks and their sizes (A.2); (0, 0) for none
    field_options: dict = dataclasses.field(
        default_factory=dict
    )  # of that function: kernel, normalize, iterations, ...
    field_lr: float = 1e-3  # learning rate of a learned field
    second_batch: bool = False  # the negatives are a second generated batch, without gradients, instead of the samples themselves
    guidance: str = "negatives"  # the unconditional reals join the negatives; or "field": V += (alpha - 1) V_{p,unc}
    class_dropout_prob: float = 0.0  # with this probability a class is replaced by the null class, whose positives are of any class
    flip: bool = False  # mirror real images at random
    groups: int = 1  # K: the step goes through its classes in so many groups (accumulate.py) ...
    exact_scales: bool = False  # ... and pools its scalars over all of them
    monitor: str = ""  # feature set of the energy distance and the diversity; "" = the last one with one vector per image
    sample_shape: tuple[
        int, ...
    ] = ()  # of what is generated; () = that of the reals, where the bank holds samples and not their features
    set_weight: Callable[[str], float] = lambda name: (
        1.0
    )  # weight of the loss of a feature set, by its name
