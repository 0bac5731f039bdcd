"""CIFAR-10, the learned field with projection.

Otherwise it is the recipe cifar10, whose field is the kernel baseline.

Command   python train_drift.py --dataset_name cifar10 --recipe cifar10_learned
              --save_dir runs/cifar10_learned
Hardware  one GPU of 80 GB, as cifar10; not planned itself
Time      not measured yet
Expected  not known
Measured  not measured yet
"""

from configs import cifar10

OVERRIDES = cifar10.OVERRIDES | {
    "drift.field": "learned",
    "drift.temperatures": (0.2, 0.5, 1.0),  # levels of noise
}
