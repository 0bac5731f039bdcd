"""ImageNet at 256x256 in latents: XL/2 with the Sinkhorn field, W-Flow (arXiv 2605.11755).

The generator has the width, depth and heads of DiT-XL, 679M parameters. Field, iterations, batch
and length are W-Flow's; what is not known of it is that of imagenet256_L.

Command   python train_drift.py --recipe imagenet256_XL_sinkhorn
Hardware  a pod: 128 TPU v6e with --mesh.fsdp 4 --model.remat 1, or 8 H100 with --mesh.fsdp 8
          --optim.accumulate 8 --model.remat 1 (plans, docs/plans.md)
Time      not measured yet
Expected  FID 1.29 (W-Flow)
Measured  not measured yet
"""

from configs import imagenet256_L_sinkhorn

OVERRIDES = imagenet256_L_sinkhorn.OVERRIDES | {
    "model.hidden_size": 1152,
    "model.depth": 28,
    "model.num_heads": 16,
}
