"""The flags of the evaluation and of sampling: one line each."""

from configs.default import DISTRIBUTED, Key
from metrics.resize import MODES
from metrics.table import METRICS
from utils import config as config_lib

EVALUATION = (
    Key("step", 0, "checkpoint to score; 0 = the newest", "[0, inf)"),
    Key("all", False, "score every checkpoint of the run that fid.csv does not have yet"),
    Key(
        "ema", "", "parameters: a decay that the run keeps, raw, or empty for the run's first decay"
    ),
    Key("cfg_scale", "1.0", "guidance scale alpha: one, a comma list, or search:LOW,HIGH"),
    Key("denoise_timesteps", 0, "Euler steps of a flow; 0 = those of its training", "[0, inf)"),
    Key(
        "num_samples",
        0,
        "samples to generate; 0 = 50,000, in pixels as many as the held-out split has",
        "[0, inf)",
    ),
    Key("metrics", "", f"of {', '.join(METRICS)}, separated by commas; empty = the usual ones"),
    Key(
        "resize",
        "",
        f"how Inception's input is resized: {', '.join(MODES)}; empty = tf, the standard",
    ),
    Key(
        "reference_split",
        "",
        "split of the data set to score against; empty = train, in pixels test",
    ),
    Key(
        "labels",
        "",
        "labels of the samples: uniform, reference, or a file (.npz, .npy, .txt); empty = reference where it has labels",
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
    ),
    Key(
        "samples_npz",
        "",
        "also write the (last) samples here, as ADM's evaluation reads them: arr_0 images, arr_1 labels",
    ),
    *DISTRIBUTED,
    config_lib.KEYS["vae"],
)


def define_evaluation_flags(flag_values=None):
    """The flags of this program."""
    names = (
        "load_dir",
        "seed",
        "dataset_name",
        "features",
        "inception_weights",
        "fid_stats",
        "data",
    )
    return config_lib.define_flags(
        names, EVALUATION, *(() if flag_values is None else (flag_values,))
    )


SAMPLING = (
    Key("step", 0, "checkpoint of the run; 0 = the newest", "[0, inf)"),
    Key(
        "ema", "", "parameters: a decay that the run keeps, raw, or empty for the run's first decay"
    ),
    Key(
        "cfg_scale",
        (1.0,),
        "guidance scales alpha; several make a sweep, one row of the grid each",
        "[1, inf)",
    ),
    Key("denoise_timesteps", 0, "Euler steps of a flow; 0 = those of its training", "[0, inf)"),
    Key("classes", "", "labels to draw, separated by commas; empty = all"),
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
        "a .png for a grid, an .npz or a folder with --num_samples; empty = samples/grid.png in the run folder, or samples.npz",
    ),
    Key(
        "sample_batch_size",
        256,
        "samples per call of the generator; it does not change the result",
        "[1, inf)",
    ),
    config_lib.KEYS["vae"],
)


def define_sampling_flags(flag_values=None):
    """The flags of sample.py."""
    return config_lib.define_flags(
        ("load_dir", "seed"), SAMPLING, *(() if flag_values is None else (flag_values,))
    )
