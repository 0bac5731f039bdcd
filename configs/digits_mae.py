"""Handwritten digits in the features of an encoder of their own, beside raw pixels.

Command   ./scripts/digits_mae.sh
Hardware  two CPU cores
Time      not measured on a quiet machine; 100 steps took 79 s of processor time, those of configs/digits.py 28 s
Expected  worse than raw pixels: fd_pixels 3.8 to 3.9 after 100 steps, against 1.7 to 1.8
Measured  100 steps, three seeds, docs/benchmarks.md; at its full length not measured
"""

from configs import digits

OVERRIDES = digits.OVERRIDES | {
    "drift.monitor": "global",
    "encoder.name": "none+mae",
    "encoder.path": ",runs/mae_digits",
    "encoder.layers": "+layer?,!layer4_std",  # the ends of the four stages; the last is 1x1, where all spreads are equal
    "encoder.statistics": "+mean,std",
    "encoder.patch_sizes": "+4",
}
