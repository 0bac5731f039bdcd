"""MAE-640 of the paper in pixels, ImageNet at 256x256: cells of 8x8 pixels (arXiv 2602.04770, A.3).

Command   python pretrain_mae.py --dataset_name imagenet256
Hardware  a pod: 64 TPU chips or 32 GPUs
Time      not measured yet
Expected  not published for this encoder alone; with ConvNeXt-V2 features beside it, FID 1.61
          (paper, L/16)
Measured  not measured yet
"""

OVERRIDES = {
    "max_steps": 200_000,
    "eval_interval": 2000,
    "save_interval": 5000,
    "data.flip": True,
    "mae.base_channels": 640,
    "mae.input_patch_size": 8,
}
