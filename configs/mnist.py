"""MNIST (60,000 grey images of 28x28) in raw pixels, class-conditional, without an encoder.

Command   python train_drift.py --dataset_name mnist
Hardware  one GPU; it needs 4 GiB (plan, docs/plans.md)
Time      not measured yet
Expected  not known; watch fd_pixels, class agreement and the grids
Measured  not measured yet
"""

OVERRIDES = {
    "batch_size": 1280,  # 10 classes x 128
    "max_steps": 20_000,
    "sample_interval": 1000,
    "eval_interval": 5000,
    "model.patch_size": 4,
    "model.hidden_size": 256,
    "model.depth": 6,
    "model.num_heads": 4,
    "model.n_cls_tokens": 4,
    "model.clip_output": True,  # both as measured on mnist_5k
    "model.refine_channels": 32,
    "drift.n_neg": 128,
    "drift.n_pos": 512,
    "drift.n_unc": 0,
    "drift.alpha_max": 1.0,  # no guidance
    "drift.bank_per_class": 5000,  # nearly everything, and the set fits on any GPU
    "drift.bank_global": 0,
    "optim.learning_rate": 5e-4,
    "optim.warmup_steps": 1000,
}
