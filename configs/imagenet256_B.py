"""ImageNet at 256x256 in latents: B/2 of the paper (arXiv 2602.04770, Table 8).

The features are those of the MAE of width 640.

Command   python train_drift.py --recipe imagenet256_B
          or, with latents that scripts/cache_latents.py made once,
          python train_drift.py --recipe imagenet256_B --dataset_name latents:DIR
              --model.use_stable_vae 0
Hardware  a pod: 128 TPU v6e or 64 H100; fewer with the flags of their plans (docs/plans.md)
Time      not measured yet
Expected  FID 1.75 (paper, alpha 1.1)
Measured  not measured yet
"""

from configs import imagenet256_ablation

OVERRIDES = imagenet256_ablation.OVERRIDES | {
    "batch_size": 8192,  # 128 classes x 64
    "max_steps": 200_000,
    "drift.n_unc": 32,
    "drift.alpha_power": 5.0,
    "drift.bank_push": 4096,  # 128 of each of 32 hosts
    "encoder.path": "hf://mae_latent_640",
    "optim.learning_rate": 4e-4,
    "optim.warmup_steps": 10_000,
    "optim.weight_decay": 0.0,
}
