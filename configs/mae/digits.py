"""An encoder of handwritten digits (8x8), for configs/digits_mae.py.

Command   python pretrain_mae.py --dataset_name digits
Hardware  two CPU cores
Time      94 s of processor time of one core
Expected  held-out reconstruction loss 0.17, accuracy of the classifier 0.90 to 0.92 on whole
          held-out digits
Measured  one seed, twice, docs/benchmarks.md
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
