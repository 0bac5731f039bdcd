"""Every setting of pretrain_mae.py: what it has of the trainer's table, and its own rows.

A row is explained in `configs/default.py`.
"""

from configs.default import PATH, TABLE, Key

# What pretrain_mae.py has of the trainer's table, beside whole groups.
SHARED = (
    "recipe",
    "dataset_name",
    "save_dir",
    "load_dir",
    "batch_size",
    "max_steps",
    "seed",
    "log_interval",
    "sample_interval",
    "eval_interval",
    "save_interval",
    "keep_checkpoints",
    "keep_interval",
    "on_nonfinite",
    "max_rollbacks",
    "watchdog",
    "log",
    "dry_run",
)
SHARED_GROUPS = ("data.", "optim.", "mesh.", "wandb.")

# What has another default or meaning there, as (default, help). The values are those of A.3, and
# what A.3 leaves open (batch, warm-up, weight decay, lengths) is from the authors' release.
DIFFERENT = {
    "recipe": (
        "",
        "file in configs/mae/ to start from; empty = the one of the data set, if any; none = none",
    ),
    "save_dir": ("", "run folder; empty = runs/mae_<dataset_name>; a run in it is resumed"),
    "load_dir": (
        "",
        "run folder of this program: go on from its newest checkpoint, in another save_dir",
    ),
    "batch_size": (8192, "images per step"),
    "sample_interval": (1000, "steps between grids of reconstructions; 0 = never"),
    "eval_interval": (1000, "steps between evaluations on the held-out split; 0 = never"),
    "optim.learning_rate": (4e-3, "after the warm-up"),
    "optim.warmup_steps": (4000, "linear warm-up from 0"),
    "optim.ema": ((0.9995,), "parameter averages; the first is the encoder"),
}


def _of_mae(key: Key) -> Key:
    """Returns the row as pretrain_mae.py has it."""
    default, help_text = DIFFERENT.get(key.name, (key.default, key.help))
    return key._replace(default=default, help=help_text)


MAE_TABLE = (
    *(_of_mae(key) for key in TABLE if key.name in SHARED or key.name.startswith(SHARED_GROUPS)),
    # ---- the masked autoencoder ----
    Key(
        "mae.base_channels",
        256,
        "width of the first stage; the others have 2, 4 and 8 times as many",
        "[5, inf)",
    ),
    Key("mae.layers", "3,4,6,3", "residual blocks of the four stages, of strides 1, 2, 4, 8"),
    Key(
        "mae.input_patch_size",
        1,
        "side of a cell, in pixels or latents, that becomes channels of the input",
        "[1, inf)",
    ),
    Key("mae.patch_size", 2, "side of a masked patch, in cells", "[1, inf)"),
    Key("mae.mask_prob", 0.5, "share of the patches that are hidden", "(0, 1)"),
    Key("mae.dropout_prob", 0.0, "dropout within the residual blocks", "[0, 1)"),
    Key("mae.use_bf16", True, "compute in bfloat16 (parameters stay float32)"),
    Key(
        "mae.crop_area",
        0.2,
        "least share of the image in a random resized crop, as arXiv 2111.06377; 1 = no crops",
        "(0, 1]",
    ),
    Key(
        "mae.finetune_steps",
        3000,
        "last steps, in which a linear classifier of the features is trained too",
        "[0, inf)",
    ),
    Key(
        "mae.class_weight",
        0.1,
        "lambda: of the classification loss, beside 1 - lambda of the reconstruction",
        "[0, 1]",
    ),
    Key("mae.class_warmup", 1000, "steps in which lambda rises from 0", "[1, inf)"),
    Key(
        "mae.export",
        "",
        "also write the trained encoder to this folder in the published format",
        PATH,
    ),
)
