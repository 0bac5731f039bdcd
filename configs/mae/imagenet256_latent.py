"""MAE-640 of the paper in latents, ImageNet at 256x256 (arXiv 2602.04770, A.3).

The latents are those of the Stable Diffusion VAE. Lengths and batch are from the authors' release.

Command   python scripts/cache_latents.py --dataset_name imagenet256
              --vae stabilityai/sd-vae-ft-ema --out DIR
          python pretrain_mae.py --dataset_name latents:DIR --recipe imagenet256_latent
Hardware  a pod: 64 TPU chips or 32 GPUs
Time      not measured yet
Expected  the generator reaches FID 3.36 with it, in the setting of the paper's Table 3
Measured  not measured yet

Crops are taken of the latents; the paper crops the images before it encodes them.
"""

OVERRIDES = {
    "max_steps": 200_000,
    "eval_interval": 2000,
    "save_interval": 5000,
    "data.flip": True,
    "mae.base_channels": 640,
}
