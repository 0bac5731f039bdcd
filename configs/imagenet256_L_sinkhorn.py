"""ImageNet at 256x256 in latents: L/2 with the Sinkhorn field, W-Flow (arXiv 2605.11755).

Field, iterations, batch and length are W-Flow's; what is not known of it is that of imagenet256_L.

Command   python train_drift.py --recipe imagenet256_L_sinkhorn
Hardware  a pod: 128 TPU v6e with --mesh.fsdp 2 --model.remat 1 (plan, docs/plans.md)
Time      not measured yet
Expected  FID 1.35 (W-Flow)
Measured  not measured yet
"""

from configs import imagenet256_L
from configs.imagenet256_ablation_sinkhorn import SINKHORN

# 200,000 steps of 8,192 are 1,280 epochs.
OVERRIDES = imagenet256_L.OVERRIDES | SINKHORN | {"drift.iterations": 1.0}
