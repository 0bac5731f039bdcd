"""ImageNet at 256x256 in latents: the paper's ablation model (arXiv 2602.04770, Table 8).

The features are those of the MAE of width 256.

Command   python train_drift.py --recipe imagenet256_ablation
          or, with latents that scripts/cache_latents.py made once,
          python train_drift.py --recipe imagenet256_ablation --dataset_name latents:DIR
              --model.use_stable_vae 0
Hardware  a pod: 64 TPU v6e; others, and 8 GPUs, with the flags of their plans (docs/plans.md)
Time      not measured yet
Expected  FID 8.46 (paper, alpha 2.0); in the authors' release 35.2, 13.3, 10.7, 9.5, 8.8, 8.3 after
          each 5k steps
Measured  not measured yet
"""

OVERRIDES = {
    "dataset_name": "imagenet256",
    "batch_size": 4096,  # 64 classes x 64
    "max_steps": 30_000,
    "eval_interval": 0,
    "data.flip": True,
    "data.workers": 16,
    "model.use_stable_vae": True,
    "model.patch_size": 2,
    "model.hidden_size": 768,
    "model.depth": 12,
    "model.num_heads": 12,
    "drift.absent": "counted",  # as in the authors' release
    "drift.n_neg": 64,
    "drift.n_pos": 64,
    "drift.n_unc": 16,
    "drift.alpha_max": 4.0,
    "drift.alpha_power": 3.0,
    "drift.bank_push": 1024,  # 64 of each of the release's 16 hosts: the bank here is one for all
    "encoder.name": "mae",
    "encoder.path": "hf://mae_latent_256",
    "optim.learning_rate": 2e-4,
    "optim.warmup_steps": 5000,
    "optim.weight_decay": 0.01,
}
