"""CIFAR-10 (50,000 images of 32x32), unconditional, features of an MAE of the same images.

Command   python pretrain_mae.py --dataset_name cifar10
          python train_drift.py --recipe cifar10_mae
Hardware  one GPU of 80 GB, as cifar10; not planned itself
Time      not measured yet
Expected  not known
Measured  not measured yet
"""

from configs import cifar10

OVERRIDES = cifar10.OVERRIDES | {
    "encoder.name": "mae",
    "encoder.path": "runs/mae_cifar10",
}
