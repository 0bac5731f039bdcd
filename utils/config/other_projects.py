"""Flags of the projects that people come from, answered with ours.

They are those of image generators in PyTorch and JAX: the flow-matching trainer that this one
mirrors, guided diffusion, EDM, DiT, and the ports of the paper. The answer names the flag with the
value that was given, so that it can be pasted.
"""

import pathlib
from collections.abc import Iterable

# Their name: ours, where the meaning is the same. The first that the program has is the answer.
SAME_MEANING = {
    "dataset": ("dataset_name",),
    "data": ("dataset_name",),
    "data_name": ("dataset_name",),
    "checkpoint": ("load_dir",),
    "checkpoint_path": ("load_dir",),
    "ckpt": ("load_dir",),
    "ckpt_path": ("load_dir",),
    "ckpt_dir": ("load_dir",),
    "model_path": ("load_dir",),
    "network": ("load_dir",),
    "resume_from": ("load_dir",),
    "resume_checkpoint": ("load_dir",),
    "run_dir": ("load_dir",),
    "pretrained": ("init_from",),
    "out_dir": ("save_dir", "out"),
    "outdir": ("save_dir", "out"),
    "output_dir": ("save_dir", "out"),
    "output": ("save_dir", "out"),
    "results_dir": ("save_dir", "out"),
    "sample_dir": ("out",),
    "workdir": ("save_dir", "out"),
    "work_dir": ("save_dir", "out"),
    "logdir": ("save_dir",),
    "log_dir": ("save_dir",),
    "report_to": ("log",),
    "exp_name": ("wandb.name",),
    "vae_id": ("vae",),
    "vae_path": ("vae",),
    "model_size": ("model.preset",),
    "arch": ("model.preset",),
    "steps": ("max_steps",),
    "num_steps": ("max_steps",),
    "train_steps": ("max_steps",),
    "total_steps": ("max_steps",),
    "iterations": ("max_steps",),
    "total_batch_size": ("batch_size",),
    "global_batch_size": ("batch_size",),
    "grad_accum": ("optim.accumulate",),
    "gradient_accumulation_steps": ("optim.accumulate",),
    "global_seed": ("seed",),
    "num_workers": ("data.workers",),
    "image_size": ("data.image_size",),
    "resolution": ("data.image_size",),
    "img_size": ("data.image_size",),
    "ckpt_every": ("save_interval",),
    "log_every": ("log_interval",),
    "sample_every": ("sample_interval",),
    "guidance": ("cfg_scale", "drift.alpha_max"),
    "guidance_scale": ("cfg_scale", "drift.alpha_max"),
    "cfg": ("cfg_scale", "drift.alpha_max"),
    "alpha": ("cfg_scale", "drift.alpha_max"),
    "num_fid_samples": ("num_samples",),
    "n_samples": ("num_samples",),
    "ref_path": ("fid_stats",),
    "ref_batch": ("fid_stats",),
    "reference": ("fid_stats",),
    "use_stable_vae": ("model.use_stable_vae", "vae"),
    "temperature": ("drift.temperatures",),
    "temps": ("drift.temperatures",),
    "num_pos": ("drift.n_pos",),
    "num_neg": ("drift.n_neg",),
}

# What has no flag here, or not one of the same meaning, and what to do.
ADVICE = {
    "data_root": "give --dataset_name folder:{value} for a folder of images, or --data.dir {value} "
    "for the copy of a named set",
    "epochs": "the length is counted in steps: give --max_steps, epochs x images / --batch_size",
    "num_epochs": "the length is counted in steps: give --max_steps, epochs x images / "
    "--batch_size",
    "resume": "the same command goes on with the run in its --save_dir; --load_dir RUN starts from "
    "the checkpoint of another",
    "auto_resume": "the same command goes on with the run in its --save_dir; leave it out",
    "skip_existing": "--all leaves out what fid.csv has already; a finished training is not "
    "repeated: leave it out",
    "cleanup_samples": "samples are not written unless --samples_npz or --out asks for it: leave "
    "it out",
    "num_classes": "the classes are counted in the data: leave it out",
    "class_cond": "a set with labels is conditional: leave it out, or give --data.label_column "
    "none for one class",
    "num_sampling_steps": "a sample is one pass: leave it out",
    "fp16": "networks compute in bfloat16 by default (--model.use_bf16): leave it out",
    "use_fp16": "networks compute in bfloat16 by default (--model.use_bf16): leave it out",
    "device": "all devices are used; JAX_PLATFORMS=cpu or --mesh.devices choose: leave it out",
    "gpus": "all devices are used; --mesh.devices N takes fewer: leave it out",
    "ema_decay": "give --optim.ema, one decay or several with commas",
    "wandb": "give --wandb.mode online or offline",
    "use_wandb": "give --wandb.mode online or offline",
    "tensorboard": "give --log tensorboard",
    "use_tensorboard": "give --log tensorboard",
}
# What --mode says in those projects.
MODES = {
    "latent": "give --model.use_stable_vae 1, and --vae FOLDER_OR_ID for another VAE",
    "pixel": "pixels are the default: leave it out",
    "train": "train_drift.py trains: leave it out",
    "sample": "sample.py samples: leave it out",
    "eval": "eval_fid.py scores: leave it out",
}
SWITCHES = {"use_stable_vae": "1"}  # what they take without a value


def answer(name: str, value: str, ours: Iterable[str]) -> str:
    """Returns "; give --load_dir x" for a flag of another project, or "" for one nobody has.

    Args:
        name: of the unknown flag, without dashes.
        value: what it was given, or "".
        ours: the names of this program's flags.
    """
    name = name.replace("-", "_")
    ours = set(ours)
    if name == "config" and "recipe" in ours:
        return f"; give --recipe {pathlib.Path(value).stem or 'NAME'}"
    if name == "mode":
        advice = [text for mode, text in MODES.items() if value.lower().startswith(mode)]
        return "; " + (advice or [MODES["latent"]])[0]
    if name in ADVICE:
        return "; " + ADVICE[name].format(value=value or "PATH")
    for same in SAME_MEANING.get(name, ()):
        if same in ours:
            shown = value or SWITCHES.get(name, "")
            return f"; give --{same} {shown}".rstrip()
    return ""
