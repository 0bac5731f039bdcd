"""Fashion-MNIST (60,000 grey images of 28x28) in raw pixels, class-conditional, without an encoder.

Command   python train_drift.py --dataset_name fashion_mnist
Hardware  one GPU; it needs 4 GiB (plan of mnist, docs/plans.md)
Time      not measured yet
Expected  not known; watch fd_pixels, class agreement and the grids
Measured  not measured yet
"""

from configs import mnist

OVERRIDES = mnist.OVERRIDES
