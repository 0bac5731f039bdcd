"""The small demo: handwritten digits (scikit-learn, 1,797 images of 8x8) in raw pixels, no encoder.

Command   python train_drift.py --dataset_name digits
Hardware  two CPU cores
Time      three minutes of training
Expected  fd_pixels 0.49, class agreement 1.00, precision 0.88, recall 0.86 against the test split
Measured  one seed, and five without clipping, docs/benchmarks.md
"""

OVERRIDES = {
    "batch_size": 640,  # 10 classes x 64
    "max_steps": 2500,
    "log_interval": 50,
    "sample_interval": 500,
    "eval_interval": 500,
    "save_interval": 500,
    "model.patch_size": 8,  # one token per image: the fastest step on a CPU, docs/benchmarks.md
    "model.hidden_size": 128,
    "model.depth": 3,
    "model.num_heads": 4,
    "model.n_cls_tokens": 0,
    "model.noise_classes": 0,  # the noise alone makes the variety
    "model.clip_output": True,  # flat paper and ink, and recall, docs/benchmarks.md
    "model.noise_coords": 1,
    "model.use_bf16": False,  # slower than float32 on a CPU
    "drift.n_neg": 64,
    "drift.n_pos": "all",
    "drift.n_unc": 0,
    "drift.alpha_max": 1.0,  # no guidance
    "drift.bank_per_class": "all",
    "optim.learning_rate": 2e-3,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 100,
    "optim.ema": (0.99, 0.999),
}
