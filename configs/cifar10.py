"""CIFAR-10 (50,000 images of 32x32), unconditional, with DINOv2 features.

Command   python train_drift.py --dataset_name cifar10
Hardware  one GPU of 80 GB; with --optim.accumulate 8 one of 24 GB (plans, docs/plans.md)
Time      not measured yet
Expected  FID 6.74 after 100k steps, what a public reproduction of the paper reports for DINOv2
          features and these group sizes
Measured  not measured yet

Conditional on the class: --recipe cifar10_conditional.
"""

OVERRIDES = {
    "dataset_name": "cifar10",
    "batch_size": 640,  # one group of 640: ten groups of 64 gave FID 10.23
    "max_steps": 100_000,
    "sample_interval": 2000,
    "eval_interval": 10_000,
    "save_interval": 2000,
    "data.label_column": "none",
    "data.flip": True,
    "mesh.devices": 1,  # with more, each does some of the rows
    "optim.accumulate": 2,  # or it needs 108 GiB
    "model.patch_size": 2,
    "model.hidden_size": 384,
    "model.depth": 12,
    "model.num_heads": 6,
    "drift.n_neg": 640,
    "drift.n_pos": 640,  # half of them gave FID 7.45
    "drift.n_unc": 0,
    "drift.alpha_max": 1.0,  # no guidance
    "drift.bank_per_class": "all",
    "encoder.name": "dinov2",
}
