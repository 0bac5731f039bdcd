"""CelebA-HQ (28,000 faces of 256x256) in pixels, unconditional.

The features are those of an MAE and a ConvNeXt-V2 of ImageNet.

Command   python train_drift.py --dataset_name celebahq256
Hardware  one GPU of 80 GB (37 GiB by the plan, docs/plans.md); one of 24 GB with a group of 64:
          --batch_size 64 --drift.n_neg 64 --drift.n_pos 64 --optim.accumulate 8
Time      not measured yet
Expected  not known
Measured  not measured yet
"""

OVERRIDES = {
    "dataset_name": "celebahq256",
    "batch_size": 256,  # one group
    "max_steps": 100_000,
    "sample_interval": 2000,
    "eval_interval": 0,  # scores in raw pixels say nothing at this size
    "save_interval": 2000,
    "data.flip": True,
    "data.workers": 8,
    "mesh.devices": 1,  # with more, each does some of the rows
    "optim.accumulate": 32,  # parts of eight samples: 37 GiB
    "model.remat": True,
    "model.patch_size": 16,
    "drift.n_neg": 256,
    "drift.n_pos": 256,
    "drift.n_unc": 0,
    "drift.alpha_max": 1.0,  # no guidance
    "drift.bank_per_class": 4096,
    "drift.bank_global": 0,
    "encoder.name": "mae+convnextv2",
    "encoder.path": "hf://mae_pixel_640",
}
