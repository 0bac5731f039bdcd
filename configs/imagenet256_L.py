"""ImageNet at 256x256 in latents: L/2 of the paper (arXiv 2602.04770, Table 8).

The features are those of the MAE of width 640.

Command   python train_drift.py --recipe imagenet256_L
          or, with latents that scripts/cache_latents.py made once,
          python train_drift.py --recipe imagenet256_L --dataset_name latents:DIR
              --model.use_stable_vae 0
Hardware  a pod: 128 TPU v6e with --mesh.fsdp 2 --model.remat 1, or 64 H100 with --mesh.fsdp 8
          --model.remat 1 (plans, docs/plans.md)
Time      not measured yet
Expected  FID 1.54 (paper, alpha 1.0)
Measured  not measured yet
"""

from configs import imagenet256_B

OVERRIDES = imagenet256_B.OVERRIDES | {
    "model.hidden_size": 1024,
    "model.depth": 24,
    "model.num_heads": 16,
    "drift.alpha_power": 3.0,
    "drift.no_cfg_frac": 0.5,  # half of the labels without guidance
    "drift.bank_push": 2048,  # 64 of each of 32 hosts
    "optim.weight_decay": 0.01,
}
