"""ImageNet at 256x256 in pixels: L/16 of the paper (arXiv 2602.04770, Table 8).

The features are those of an MAE and a ConvNeXt-V2.

Command   python train_drift.py --recipe imagenet256_pixel_L
Hardware  a pod: 128 TPU v6e with --mesh.fsdp 4 --optim.accumulate 4 --model.remat 1, or 8 H100
          with --mesh.fsdp 8 --optim.accumulate 8 --model.remat 1 --drift.bank_placement host
          (plans, docs/plans.md)
Time      not measured yet
Expected  FID 1.61 (paper)
Measured  not measured yet
"""

from configs import imagenet256_pixel_B

OVERRIDES = imagenet256_pixel_B.OVERRIDES | {
    "model.hidden_size": 1024,
    "model.depth": 24,
    "model.num_heads": 16,
    "optim.learning_rate": 4e-4,
}
