"""ImageNet at 512x512 in pixels: imagenet256_pixel_B with patches of 32, so 256 tokens too.

The published MAE, which is made of convolutions, was trained on 256x256; at 512x512 it is not
measured. ConvNeXt-V2 sees images at its own size.

Command   python train_drift.py --recipe imagenet512_pixel_B
Hardware  a pod, larger than 128 TPU v6e, where it does not fit in 8 groups (docs/plans.md)
Time      not measured yet
Expected  not known
Measured  not measured yet
"""

from configs import imagenet256_pixel_B

AT_512 = {"data.image_size": 512, "model.patch_size": 32}

OVERRIDES = imagenet256_pixel_B.OVERRIDES | AT_512
