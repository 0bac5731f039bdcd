"""The table of encoders."""

import importlib
from typing import Any

from models.encoders.contract import EncoderModule

# --encoder.name NAME: the module that makes the encoder of this name.
ENCODERS = {
    "none": "models.encoders.none",
    "mae": "models.encoders.mae",
    "dinov2": "models.encoders.dinov2",
    "convnextv2": "models.encoders.convnextv2",
    "resnet18": "models.encoders.resnet",
    "resnet50": "models.encoders.resnet",
    "efficientnet": "models.encoders.efficientnet",
    "vit": "models.encoders.vit",
    "whiten": "models.encoders.whiten",
    "contrast": "models.encoders.contrast",
}

# These take any samples, an MAE those that it was trained on. All others take images alone.
OF_ANY_SAMPLES = ("none", "mae", "whiten", "contrast")


def find_encoder(name: str) -> EncoderModule:
    """Returns the module of an encoder in ENCODERS."""
    module: Any = importlib.import_module(ENCODERS[name])
    return module
