"""Scores generated images against real ones; the last line of output is JSON with all settings.

    python eval_fid.py --load_dir runs/cifar10 \
                         the newest checkpoint, 50,000 samples: a FID
    python eval_fid.py --load_dir runs/cifar10 --all --cfg_scale 1,1.5,2 \
   every checkpoint that fid.csv does not have yet, three alphas
    python eval_fid.py --load_dir runs/cifar10 --cfg_scale search:1,4 \
  the best alpha, by golden section
    python eval_fid.py --load_dir samples.npz --fid_stats stats.npz \
    images that are there already: an .npz or a folder

--load_dir is what is scored: a run folder or a published artifact (or hf://NAME), which generate,
or images, a folder or an .npz. --fid_stats: statistics in any of the usual formats, or images;
without it the data set's own images are the reference. Rows go to fid.csv in the run folder, or in
--out. Images below 32 pixels or without colour are scored in pixels unless --features says
otherwise: `fd_pixels` is a Frechet distance between pixels, not an FID. docs/evaluation.md has the
traps.
"""

from evaluation.flags import define_evaluation_flags
from utils import config as config_lib


def main(flag_values):
    """Scores."""
    # Not at the top, since it imports jax: utils/config/__init__.py.
    from evaluation import evaluate_command

    evaluate_command.main(flag_values)


if __name__ == "__main__":
    define_evaluation_flags()
    config_lib.run_main(main)
