"""CIFAR-10 (50,000 images of 32x32), conditional on the class, with DINOv2 features.

Command   python train_drift.py --recipe cifar10_conditional
Hardware  one GPU of 24 GB (plan, docs/plans.md)
Time      not measured yet
Expected  not known; in a public reproduction ten groups of 64 gave FID 10.23, one group of 640
          without classes 6.74
Measured  not measured yet
"""

from configs import cifar10

OVERRIDES = cifar10.OVERRIDES | {
    "batch_size": 2560,  # 10 classes x 256: few large groups
    "optim.accumulate": 32,  # parts of the samples of each class; whole they need 427 GiB
    "data.label_column": "",
    "drift.n_neg": 256,
    "drift.n_pos": 640,
}
