"""MAE-256 of the paper's ablations, ImageNet at 256x256 (arXiv 2602.04770, A.3).

It is trained in latents of the Stable Diffusion VAE.

Command   python pretrain_mae.py --dataset_name latents:DIR --recipe imagenet256_ablation
Hardware  a pod: 32 TPU chips or 16 GPUs
Time      not measured yet
Expected  the generator of the ablation reaches FID 8.46 with it (paper, Table 3)
Measured  not measured yet

DIR as in configs/mae/imagenet256_latent.py.
"""

OVERRIDES = {
    "max_steps": 30_000,
    "data.flip": True,
    "mae.base_channels": 256,
    "mae.finetune_steps": 0,
}
