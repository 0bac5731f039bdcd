"""An encoder of CIFAR-10 (32x32).

Cells are of one pixel, so that the maps are 32, 16, 8 and 4 wide, as for the latents of the paper.

Command   python pretrain_mae.py --dataset_name cifar10
Hardware  one GPU of 80 GB
Time      not measured yet
Expected  not measured yet
Measured  not measured yet
"""

OVERRIDES = {
    "batch_size": 1024,
    "max_steps": 20_000,
    "sample_interval": 2000,
    "save_interval": 2000,
    "data.flip": True,
    "mae.base_channels": 128,
    "optim.warmup_steps": 1000,
}
