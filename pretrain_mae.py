"""Trains the paper's feature encoder, a masked autoencoder (A.3), for train_drift.py.

python pretrain_mae.py --dataset_name digits      the run is in runs/mae_digits; it resumes there
python train_drift.py --dataset_name digits --encoder.name mae --encoder.path runs/mae_digits

The step that matters is `models.mae_step.mae_step`; training/mae.py compiles and feeds it.
"""

from configs.default import OF_TRAINERS
from utils import config as config_lib


def main(flag_values):
    """Trains."""
    # Not at the top, since it imports jax: utils/config/__init__.py.
    from training import mae

    mae.main(flag_values)


if __name__ == "__main__":
    config_lib.define_flags(extra=OF_TRAINERS, schema=config_lib.MAE_TRAINER)
    config_lib.run_main(main)
