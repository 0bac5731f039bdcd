"""ImageNet at 256x256 in pixels: B/16 of the paper (arXiv 2602.04770, Table 8), MAE and ConvNeXt-V2 features.

Command   python train_drift.py --dataset_name imagenet256
Hardware  a pod: 128 TPU chips or 64 GPUs
Time      not measured yet
Expected  FID 1.76 (paper, B/16 in pixels)
Measured  not measured yet

In latents: scripts/cache_latents.py, then --recipe imagenet256_latent.
"""

OVERRIDES = {
    "batch_size": 8192,  # 128 classes x 64
    "max_steps": 100_000,
    "sample_interval": 2000,
    "eval_interval": 0,  # scores in raw pixels say nothing at this size
    "save_interval": 2000,
    "data.flip": True,
    "data.workers": 16,
    "model.patch_size": 16,
    "drift.n_neg": 64,
    "drift.n_pos": 128,
    "drift.n_unc": 32,
    "drift.alpha_power": 5.0,
    "drift.bank_push": 128,
    "encoder.name": "mae+convnextv2",
    "encoder.path": "hf://mae_pixel_640",
    "optim.warmup_steps": 10_000,
}
