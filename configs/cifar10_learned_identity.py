"""CIFAR-10, the learned field without projection; otherwise the recipe cifar10_learned.

Command   python train_drift.py --dataset_name cifar10 --recipe cifar10_learned_identity
              --save_dir runs/cifar10_learned_identity
Hardware  one GPU of 80 GB, as cifar10; not planned itself
Time      not measured yet
Expected  not known
Measured  not measured yet
"""

from configs import cifar10_learned

OVERRIDES = cifar10_learned.OVERRIDES | {"drift.field_projection": False}
