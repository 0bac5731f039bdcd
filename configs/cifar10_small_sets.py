"""CIFAR-10, sets of 64: ten groups rather than one.

Otherwise it is the recipe cifar10, whose field is the kernel baseline.

Command   python train_drift.py --dataset_name cifar10 --recipe cifar10_small_sets
              --save_dir runs/cifar10_small_sets
Hardware  one GPU of 80 GB, as cifar10; not planned itself
Time      not measured yet
Expected  FID 10.23 after 100k steps, what a public reproduction of the paper reports
Measured  not measured yet
"""

from configs import cifar10

OVERRIDES = cifar10.OVERRIDES | {
    "optim.accumulate": 4,  # which divides samples: 2 would divide the ten groups
    "drift.n_neg": 64,
    "drift.n_pos": 64,
}
