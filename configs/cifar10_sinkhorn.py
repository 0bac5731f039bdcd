"""CIFAR-10, the Sinkhorn field.

Otherwise it is the recipe cifar10, whose field is the kernel baseline.

Command   python train_drift.py --dataset_name cifar10 --recipe cifar10_sinkhorn
              --save_dir runs/cifar10_sinkhorn
Hardware  one GPU of 80 GB, as cifar10; not planned itself
Time      not measured yet
Expected  better than the kernel field, as on ImageNet-256 (arXiv 2605.11755)
Measured  not measured yet
"""

from configs import cifar10

OVERRIDES = cifar10.OVERRIDES | {
    "drift.field": "sinkhorn",
}
