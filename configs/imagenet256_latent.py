"""ImageNet at 256x256 in latents of the Stable Diffusion VAE: B/2 of the paper (arXiv 2602.04770, Table 8), MAE-640 features.

Command   python scripts/cache_latents.py --dataset_name imagenet256 --vae stabilityai/sd-vae-ft-ema --out DIR
          python train_drift.py --dataset_name latents:DIR --recipe imagenet256_latent
Hardware  a pod: 64 TPU chips or 32 GPUs
Time      not measured yet
Expected  FID 1.75 (paper, B/2 in latents, alpha 1.1)
Measured  not measured yet
"""

OVERRIDES = {
    "batch_size": 8192,  # 128 classes x 64
    "max_steps": 200_000,
    "sample_interval": 0,  # grids of latents are not decoded
    "eval_interval": 0,
    "save_interval": 2000,
    "data.flip": True,
    "model.patch_size": 2,
    "drift.n_neg": 64,
    "drift.n_pos": 64,
    "drift.n_unc": 32,
    "drift.alpha_power": 5.0,
    "drift.bank_push": 128,
    "encoder.name": "mae",
    "encoder.path": "hf://mae_latent_640",
    "optim.learning_rate": 4e-4,
    "optim.warmup_steps": 10_000,
    "optim.weight_decay": 0.0,
}
