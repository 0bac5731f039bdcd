"""ImageNet at 256x256 in pixels, as imagenet256_pixel_B; in latents: --recipe imagenet256_B.

Command   python train_drift.py --dataset_name imagenet256
Hardware  8 H100 with --optim.accumulate 8 --model.remat 1 --drift.bank_placement host (plan,
          docs/plans.md); pods not planned
Time      not measured yet
Expected  FID 1.76 (paper)
Measured  not measured yet
"""

from configs import imagenet256_pixel_B

OVERRIDES = imagenet256_pixel_B.OVERRIDES
