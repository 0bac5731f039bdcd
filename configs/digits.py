"""Handwritten digits (scikit-learn, 1,797 images of 8x8) in raw pixels, without an encoder: the demo.

Command   python train_drift.py --dataset_name digits
Hardware  two CPU cores
Time      not measured yet
Expected  fd_pixels <= 0.7, class agreement >= 0.97, precision >= 0.8, recall >= 0.7 against the test split
Measured  not measured yet
"""

OVERRIDES = {
    "batch_size": 320,  # 10 classes x 32
    "max_steps": 1000,
    "log_interval": 50,
    "sample_interval": 250,
    "eval_interval": 500,
    "save_interval": 500,
    "model.patch_size": 4,
    "model.hidden_size": 96,
    "model.depth": 4,
    "model.num_heads": 4,
    "model.n_cls_tokens": 4,
    "model.noise_coords": 8,
    "model.use_bf16": False,  # slower than float32 on a CPU
    "drift.n_neg": 32,
    "drift.n_pos": "all",
    "drift.n_unc": 0,
    "drift.alpha_max": 1.0,  # no guidance
    "drift.bank_per_class": "all",
    "drift.bank_global": 0,
    "optim.learning_rate": 2e-3,
    "optim.warmup_steps": 100,
    "optim.ema": (0.99, 0.999),
}
