"""ImageNet at 256x256 in pixels: B/16 of the paper (arXiv 2602.04770, Table 8).

The features are those of an MAE and a ConvNeXt-V2.

Command   python train_drift.py --recipe imagenet256_pixel_B
Hardware  8 H100 with --optim.accumulate 8 --model.remat 1 --drift.bank_placement host (plan,
          docs/plans.md); pods not planned
Time      not measured yet
Expected  FID 1.76 (paper)
Measured  not measured yet
"""

OVERRIDES = {
    "dataset_name": "imagenet256",
    "batch_size": 8192,  # 128 classes x 64
    "max_steps": 100_000,
    "sample_interval": 2000,
    "eval_interval": 0,
    "save_interval": 2000,
    "data.flip": True,
    "data.workers": 16,
    "model.patch_size": 16,
    "model.hidden_size": 768,
    "model.depth": 12,
    "model.num_heads": 12,
    "drift.absent": "counted",  # as in the authors' release
    "drift.n_neg": 64,
    "drift.n_pos": 128,
    "drift.n_unc": 32,
    "drift.alpha_max": 4.0,
    "drift.alpha_power": 5.0,
    "drift.bank_push": 4096,  # 128 of each of the release's 32 hosts: the bank here is one for all
    "encoder.name": "mae+convnextv2",
    "encoder.path": "hf://mae_pixel_640",
    "optim.learning_rate": 2e-4,
    "optim.warmup_steps": 10_000,
    "optim.weight_decay": 0.01,
}
