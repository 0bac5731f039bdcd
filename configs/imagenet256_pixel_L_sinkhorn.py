"""ImageNet at 256x256 in pixels: L/16 with the Sinkhorn field of W-Flow (arXiv 2605.11755).

Otherwise it is the recipe imagenet256_pixel_L. W-Flow itself is of latents.

Command   python train_drift.py --recipe imagenet256_pixel_L_sinkhorn
Hardware  a pod: 256 TPU chips or 128 GPUs of 80 GB; not planned
Time      not measured yet
Expected  not known; the kernel field has FID 1.61 (paper)
Measured  not measured yet
"""

from configs import imagenet256_pixel_L
from configs.imagenet256_ablation_sinkhorn import SINKHORN

OVERRIDES = imagenet256_pixel_L.OVERRIDES | SINKHORN | {"drift.iterations": 1.0}
