"""ImageNet at 256x256 in latents: the ablation model with the Sinkhorn field (arXiv 2605.11755).

The second batch, from which the field takes its negatives, has the size of the first.

Command   python train_drift.py --recipe imagenet256_ablation_sinkhorn
Hardware  a pod: 64 TPU chips or 32 GPUs of 80 GB; not planned
Time      not measured yet
Expected  better than the kernel field: FID 7.08 to 7.29 rather than 8.46 at B after 100 epochs
          (arXiv 2605.11755)
Measured  not measured yet
"""

from configs import imagenet256_ablation

# The field of W-Flow, at B: 20 iterations; no kernel, so nothing to count or mask.
SINKHORN = {
    "drift.field": "sinkhorn",
    "drift.iterations": 20.0,
    "drift.absent": "masked",
}

OVERRIDES = imagenet256_ablation.OVERRIDES | SINKHORN
