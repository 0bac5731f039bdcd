"""ImageNet at 256x256 in pixels: L/16 of the paper (arXiv 2602.04770, Table 8).

The features are those of an MAE and a ConvNeXt-V2.

Command   python train_drift.py --recipe imagenet256_pixel_L
Hardware  a pod: 256 TPU chips or 128 GPUs of 80 GB
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
