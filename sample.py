"""Images from a generator, one pass each: a grid by class, an alpha sweep, PNG files or an .npz.

    python sample.py --load_dir runs/digits \
                        grid.png, ten samples of each class
    python sample.py --load_dir runs/digits --classes 3,7 --cfg_scale 1,1.5,2,4
    python sample.py --load_dir runs/digits --num_samples 1000 --out samples.npz
    python sample.py --load_dir hf://latent_L_sota --classes 207,388

Sample i depends on (seed, i) alone: the batch size and the devices do not change it.
"""

from evaluation.flags import define_sampling_flags
from utils import config as config_lib


def main(flag_values):
    """Samples."""
    # Not at the top, since it imports jax: utils/config/__init__.py.
    from evaluation import sample_command

    sample_command.main(flag_values)


if __name__ == "__main__":
    define_sampling_flags()
    config_lib.run_main(main)
