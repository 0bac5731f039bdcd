"""The optimiser of every trainer: AdamW or Muon after a clip of the gradient, with a warm-up."""

from typing import Any

import optax

from drifting.averages import TRACKED_WIDTHS, power_name
from training.muon import muon


def learning_rate_schedule(optim: Any, max_steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the steps taken so far.

    It rises linearly from 0 in `warmup_steps`, and then stays, or falls along a cosine to
    `end_learning_rate` at `max_steps`. `optim` is the group of that name in configs/default.py.
    """
    if optim.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=optim.learning_rate,
            warmup_steps=optim.warmup_steps,
            decay_steps=max_steps,
            end_value=optim.end_learning_rate,
        )
    if optim.warmup_steps == 0:
        return optax.constant_schedule(optim.learning_rate)
    return optax.linear_schedule(0.0, optim.learning_rate, optim.warmup_steps)


def build_optimizer(
    optim: Any, max_steps: int
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """Returns the learning rate by step, and the transformation that makes updates of gradients.

    Gradients are clipped by their norm over all parameters together, not one array at a time.
    """
    schedule = learning_rate_schedule(optim, max_steps)
    clip = optax.clip_by_global_norm(optim.clip)
    adamw = optax.adamw(schedule, optim.b1, optim.b2, weight_decay=optim.weight_decay)
    if optim.name == "muon":
        return schedule, optax.chain(clip, muon(schedule, adamw, optim.weight_decay))
    return schedule, optax.chain(clip, adamw)


def average_names(optim: Any) -> list[str]:
    """Returns the names of the averages that a run keeps, such as ["0.999", "power_0.05"]."""
    names = [str(decay) for decay in optim.ema]
    if optim.ema_snapshots:
        names += [power_name(width) for width in TRACKED_WIDTHS]
    return names
