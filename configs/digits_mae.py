"""Handwritten digits in the features of an encoder of their own, beside raw pixels.

Command   ./scripts/digits_mae.sh
Hardware  two CPU cores
Time      not measured yet
Expected  not measured yet
Measured  at 100 steps only, docs/benchmarks.md
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
