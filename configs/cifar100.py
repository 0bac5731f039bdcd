"""CIFAR-100 (50,000 images of 32x32), unconditional, with DINOv2 features: the settings of CIFAR-10.

Command   python train_drift.py --dataset_name cifar100
Hardware  one GPU of 80 GB
Time      not measured yet
Expected  not known
Measured  not measured yet

Conditional on the class: --data.label_column fine_label --drift.n_neg 64 --drift.n_pos 256.
"""

OVERRIDES = {
    "batch_size": 640,  # one group of 640, as for CIFAR-10
    "max_steps": 100_000,
    "sample_interval": 2000,
    "eval_interval": 10_000,
    "save_interval": 2000,
    "data.label_column": "none",
    "data.flip": True,
    "mesh.devices": 1,  # a group is not divided
    "model.patch_size": 2,
    "model.hidden_size": 384,
    "model.depth": 12,
    "model.num_heads": 6,
    "drift.n_neg": 640,
    "drift.n_pos": 640,
    "drift.n_unc": 0,
    "drift.alpha_max": 1.0,  # no guidance
    "drift.bank_per_class": "all",
    "encoder.name": "dinov2",
}
