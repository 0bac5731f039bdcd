"""Fashion-MNIST (60,000 grey images of 28x28) in raw pixels, whitened ones and contrast, by class.

Command   python train_drift.py --dataset_name fashion_mnist
Hardware  one GPU; a step needs 1.4 GiB (plan for a CPU, docs/plans.md)
Time      not timed; a step compares with 15 times the reals of one of mnist_5k
Expected  not scored; watch fd_pixels, class agreement and the grids
Measured  not measured yet: the settings are those of mnist, chosen on digits
"""

from configs import mnist

OVERRIDES = mnist.OVERRIDES | {"dataset_name": "fashion_mnist"}
