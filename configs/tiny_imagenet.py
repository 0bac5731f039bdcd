"""Tiny ImageNet (100,000 images of 64x64, 200 classes), class-conditional, with DINOv2 features.

Command   python train_drift.py --dataset_name tiny_imagenet
Hardware  one node of 8 GPUs, not planned; with --optim.accumulate 32 one of 24 GB (plan,
          docs/plans.md)
Time      not measured yet
Expected  not known
Measured  not measured yet
"""

from configs import imagenet64

OVERRIDES = imagenet64.OVERRIDES | {
    "dataset_name": "tiny_imagenet",
    "batch_size": 2048,  # 32 classes x 64
}
