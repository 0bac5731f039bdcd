"""The flags of eval_fid.py and sample.py. A new flag is one row in one of the two tables.

Nothing here imports jax, so --help and a mistyped flag are quick.

Flags that several programs share, such as --seed, are rows of `configs/default.py`. The function
below each table names those that the program takes.
"""

from typing import Any

from absl import flags

from configs.default import BUCKET, DISTRIBUTED, PATH, Key
from utils import config as config_lib

# All flags of a command by name, as `utils.config.all_flags` returns them: flags.load_dir. With the
# type of that, each value would be one of seven types.
Flags = Any

EMA = Key(
    "ema",
    "",
    "parameters: a decay that the run keeps, raw, a width such as 0.12 of a run with "
    "--optim.ema_snapshots, or empty for the run's first decay",
)
EULER_STEPS = Key(
    "denoise_timesteps", 0, "Euler steps of a flow; 0 = those of its training", "[0, inf)"
)
RESIZE = Key(
    "resize",
    "",
    "how Inception's input is resized: tf (the standard; so is empty), pytorch or clean",
)


def load_dir(meaning: str) -> Key:
    """Returns the row of --load_dir, with what a program takes there."""
    return config_lib.KEYS["load_dir"]._replace(help=meaning)


GENERATOR = load_dir("the generator: a run folder, a published artifact, or hf://NAME")
RUN = load_dir("the folder of a run")

# ---------------------------------------------------------------- eval_fid.py

EVALUATION = (
    load_dir(
        "what to score: a run folder, a published artifact or hf://NAME, which generate; "
        "or images, a folder or an .npz"
    ),
    Key("step", 0, "checkpoint to score; 0 = the newest", "[0, inf)"),
    Key("all", False, "score every checkpoint of the run that fid.csv does not have yet"),
    EMA,
    Key("cfg_scale", "1.0", "guidance scale alpha: one, a comma list, or search:LOW,HIGH"),
    EULER_STEPS,
    Key(
        "num_samples",
        0,
        "samples to generate; 0 = 50,000, in pixels and by efficientnet as many as the reals",
        "[0, inf)",
    ),
    Key(
        "metrics",
        "",
        "names of docs/evaluation.md, separated by commas, such as fid,kid; empty = the usual ones",
    ),
    Key(
        "against",
        "",
        "a second run (its newest checkpoint), artifact, folder or .npz of images: scored by the "
        "same reference, noise and labels, with the difference, its error and who is better",
        BUCKET,
    ),
    Key(
        "error_groups",
        1,
        "0 = scores without their standard errors",
        "[0, inf)",
    ),
    RESIZE,
    Key(
        "feature_cache",
        "",
        "folder where features of real images are kept for the next evaluation; none = nowhere, "
        "empty = ~/.cache/jax-drift/features",
        PATH,
    ),
    Key(
        "feature_cache_gib",
        20.0,
        "what that folder may take; the files used longest ago are removed beyond it",
        "[0, inf)",
    ),
    Key(
        "reference_split",
        "",
        "split of the data set to score against; empty = train, "
        "in pixels and by efficientnet alone test",
    ),
    Key(
        "held_out",
        "",
        "held-out reals for fdr, swr and memorisation: images or statistics as of --fid_stats; "
        "empty = those of the data set, unless --fid_stats names images",
        BUCKET,
    ),
    Key(
        "labels",
        "",
        "labels of the samples: uniform, reference, or a file (.npz, .npy, .txt; of conditions "
        ".npy); empty = reference where it has labels",
        BUCKET,
    ),
    Key(
        "sample_batch_size",
        256,
        "samples per call of the generator and of the network; it does not change the result",
        "[1, inf)",
    ),
    Key(
        "out",
        "",
        "folder of fid.csv and the pictures; empty = the run folder, otherwise none are written",
        BUCKET,
    ),
    Key(
        "samples_npz",
        "",
        "also write the (last) samples here, as ADM's evaluation reads them: "
        "arr_0 images, arr_1 labels",
        BUCKET,
    ),
    *DISTRIBUTED,
    config_lib.KEYS["vae"],
)

# Flags that say how samples are generated: of no use where the images are there already.
OF_GENERATORS = ("step", "all", "ema", "cfg_scale", "num_samples", "labels", "samples_npz", "seed")


def define_evaluation_flags(flag_values: flags.FlagValues = flags.FLAGS) -> flags.FlagValues:
    """Registers the flags of eval_fid.py."""
    shared = (
        "seed",
        "dataset_name",
        "features",
        "inception_weights",
        "fid_stats",
        "data",
    )
    return config_lib.define_flags(shared, EVALUATION, flag_values)


# ---------------------------------------------------------------- sample.py

SAMPLING = (
    GENERATOR,
    Key("step", 0, "checkpoint of the run; 0 = the newest", "[0, inf)"),
    EMA,
    Key(
        "cfg_scale",
        (1.0,),
        "guidance scales alpha; several make a sweep, one row of the grid each",
        "[1, inf)",
    ),
    EULER_STEPS,
    Key("classes", "", "labels to draw, separated by commas; empty = all"),
    Key(
        "conditions",
        "",
        "of a generator of conditions: an .npy of vectors [S, E] to draw from, as if each were a "
        "class; empty = some that the run has learned from",
        BUCKET,
    ),
    Key("per_class", 10, "samples of each class in a grid", "[1, inf)"),
    Key(
        "compare",
        False,
        "grid with real held-out samples beside it; needs a run, whose data set is at hand",
    ),
    Key(
        "latents",
        False,
        "write the samples of a generator of latents as they are, with --num_samples and an .npz",
    ),
    Key(
        "num_samples",
        0,
        "samples to write as files or .npz, labels in turn; 0 = a grid",
        "[0, inf)",
    ),
    Key(
        "out",
        "",
        "a .png for a grid, an .npz or a folder with --num_samples; "
        "empty = samples/grid.png in the run folder, or samples.npz",
        BUCKET,
    ),
    Key(
        "sample_batch_size",
        256,
        "samples per call of the generator; it does not change the result",
        "[1, inf)",
    ),
    config_lib.KEYS["vae"],
)


def define_sampling_flags(flag_values: flags.FlagValues = flags.FLAGS) -> flags.FlagValues:
    """Registers the flags of sample.py."""
    return config_lib.define_flags(("seed",), SAMPLING, flag_values)
