"""Trains a one-step image generator by drifting.

python train_drift.py --dataset_name digits            the run is in runs/digits; it resumes there
python train_drift.py --dataset_name digits --dry_run  what would be run, and what it takes

The step that matters is `drifting.step.train_step`; training/drift.py compiles and feeds it.
"""

from configs.default import OF_TRAINERS
from utils import config as config_lib


def main(flag_values):
    """Trains."""
    # Not at the top, since it imports jax: utils/config/__init__.py.
    from training import drift

    drift.main(flag_values)


if __name__ == "__main__":
    config_lib.define_flags(extra=OF_TRAINERS)
    config_lib.run_main(main)
