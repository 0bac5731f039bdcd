"""ImageNet at 256x256 in pixels, as imagenet256_pixel_B; in latents: --recipe imagenet256_B.

Command   python train_drift.py --dataset_name imagenet256
Hardware  a pod: 128 TPU chips or 64 GPUs of 80 GB
Time      not measured yet
Expected  FID 1.76 (paper)
Measured  not measured yet
"""

from configs import imagenet256_pixel_B

OVERRIDES = imagenet256_pixel_B.OVERRIDES
