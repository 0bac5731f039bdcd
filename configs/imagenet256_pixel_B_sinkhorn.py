"""ImageNet at 256x256 in pixels: B/16 with the Sinkhorn field of W-Flow (arXiv 2605.11755).

Otherwise it is the recipe imagenet256_pixel_B. W-Flow itself is of latents.

Command   python train_drift.py --recipe imagenet256_pixel_B_sinkhorn
Hardware  a pod: 128 TPU chips or 64 GPUs of 80 GB; not planned
Time      not measured yet
Expected  not known; the kernel field has FID 1.76 (paper)
Measured  not measured yet
"""

from configs import imagenet256_pixel_B
from configs.imagenet256_ablation_sinkhorn import SINKHORN

OVERRIDES = imagenet256_pixel_B.OVERRIDES | SINKHORN | {"drift.iterations": 10.0}
