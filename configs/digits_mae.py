"""Handwritten digits in the features of an encoder of their own, beside raw pixels.

Command   ./scripts/digits_mae.sh
Hardware  two CPU cores
Time      four minutes of one core, the pre-training of the encoder included
Expected  fd_pixels 0.93; worse than raw pixels: 1.26 to 1.36 after 400 steps, against 1.09 to 1.12
Measured  400 steps, three seeds; full length, one seed: docs/benchmarks.md
"""

from configs import digits

OVERRIDES = digits.OVERRIDES | {
    "dataset_name": "digits",
    # 10 classes x 32: a generated sample costs a pass through the encoder and back.
    "batch_size": 320,
    "max_steps": 800,
    "drift.n_neg": 32,
    "drift.monitor": "global",
    "encoder.name": "none+mae",
    "encoder.path": ",runs/mae_digits",
    # Means over the quarters of the maps of the first two stages. The third and fourth stage, with
    # maps of 2x2 and 1x1, take more than half of the encoder's time; the compiler leaves out what
    # is not asked for. Of the whole map, groups of one channel make means and spreads the same for
    # all images.
    "encoder.layers": "+layer[12],!layer?_mean,!layer1_mean_2,!layer2_mean_4",
    "encoder.statistics": "+mean",
    "encoder.patch_sizes": "+2,4",
}
