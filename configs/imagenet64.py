"""ImageNet at 64x64 (1,281,167 images, 1000 classes), class-conditional, with DINOv2 features.

Command   python train_drift.py --dataset_name imagenet64
Hardware  one node of 8 GPUs, or a TPU slice of 32 chips, not planned; with --optim.accumulate 64
          one GPU of 24 GB (plan, docs/plans.md)
Time      not measured yet
Expected  not known
Measured  not measured yet
"""

OVERRIDES = {
    "dataset_name": "imagenet64",
    "batch_size": 4096,  # 64 classes x 64
    "max_steps": 100_000,
    "sample_interval": 2000,
    "eval_interval": 0,  # scores in raw pixels say little at this size
    "save_interval": 2000,
    "data.flip": True,
    "data.workers": 8,
    "model.patch_size": 4,
    "drift.n_neg": 64,
    "drift.n_pos": 64,
    "drift.n_unc": 16,
    "drift.bank_push": 64,
    "encoder.name": "dinov2",
}
