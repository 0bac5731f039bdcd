"""ImageNet at 256x256 in latents that were made before: imagenet256_B without its VAE.

Command   python scripts/cache_latents.py --dataset_name imagenet256
              --vae stabilityai/sd-vae-ft-ema --out DIR
          python train_drift.py --dataset_name latents:DIR --recipe imagenet256_latent
Hardware  a pod: 128 TPU v6e or 64 H100; fewer with the flags of their plans (docs/plans.md)
Time      not measured yet
Expected  FID 1.75 (paper, B/2 in latents, alpha 1.1)
Measured  not measured yet
"""

from configs import imagenet256_B

OVERRIDES = imagenet256_B.OVERRIDES | {"model.use_stable_vae": False}
