"""CIFAR-100 (50,000 images of 32x32), unconditional, DINOv2 features: the settings of CIFAR-10.

Command   python train_drift.py --dataset_name cifar100
Hardware  one GPU of 80 GB; with --optim.accumulate 8 one of 24 GB (plans of cifar10, docs/plans.md)
Time      not measured yet
Expected  not known
Measured  not measured yet

Conditional on the class: --data.label_column fine_label --drift.n_neg 64 --drift.n_pos 256
--optim.accumulate 4.
"""

from configs import cifar10

OVERRIDES = cifar10.OVERRIDES | {"dataset_name": "cifar100"}
