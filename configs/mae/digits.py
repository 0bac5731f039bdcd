"""An encoder of handwritten digits (8x8), for configs/digits_mae.py.

Command   python pretrain_mae.py --dataset_name digits
Hardware  two CPU cores
Time      not measured yet
Expected  not measured yet
Measured  not measured yet
"""

OVERRIDES = {
    "batch_size": 128,
    "max_steps": 400,
    "log_interval": 20,
    "sample_interval": 200,
    "eval_interval": 100,
    "save_interval": 100,
    "mae.base_channels": 16,
    "mae.layers": "1,1,1,1",
    "mae.use_bf16": False,  # slower than float32 on a CPU
    "mae.crop_area": 0.7,
    "mae.finetune_steps": 150,
    "mae.class_warmup": 50,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 40,
    "optim.ema": (0.98,),
}
