"""ImageNet at 512x512 in latents of 64x64x4: imagenet256_L with patches of 4, so 256 tokens too.

The published MAE, which is made of convolutions, was trained on latents of 32x32; at 64x64 it is
not measured. `pretrain_mae.py --recipe imagenet256_latent` on such latents makes one of their size.

Command   python train_drift.py --recipe imagenet512_L
          or, with latents that scripts/cache_latents.py made once (--data.image_size 512),
          python train_drift.py --recipe imagenet512_L --dataset_name latents:DIR
              --model.use_stable_vae 0 --data.image_size 0
Hardware  128 TPU v6e with --mesh.fsdp 8 --optim.accumulate 8 --model.remat 1 (plan, docs/plans.md)
Time      not measured yet
Expected  not known
Measured  not measured yet
"""

from configs import imagenet256_L
from configs.imagenet512_B import AT_512

OVERRIDES = imagenet256_L.OVERRIDES | AT_512
