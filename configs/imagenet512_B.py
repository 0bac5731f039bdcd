"""ImageNet at 512x512 in latents of 64x64x4: imagenet256_B with patches of 4, so 256 tokens too.

The published MAE, which is made of convolutions, was trained on latents of 32x32; at 64x64 it is
not measured. `pretrain_mae.py --recipe imagenet256_latent` on such latents makes one of their size.

Command   python train_drift.py --recipe imagenet512_B
          or, with latents that scripts/cache_latents.py made once (--data.image_size 512),
          python train_drift.py --recipe imagenet512_B --dataset_name latents:DIR
              --model.use_stable_vae 0 --data.image_size 0
Hardware  128 TPU v6e with --mesh.fsdp 4 --optim.accumulate 4 --model.remat 1 (plan, docs/plans.md)
Time      not measured yet
Expected  not known
Measured  not measured yet
"""

from configs import imagenet256_B

AT_512 = {"data.image_size": 512, "model.patch_size": 4}

OVERRIDES = imagenet256_B.OVERRIDES | AT_512
