"""Lets a benchmark run on a machine that has jax, flax, optax, orbax, einops, absl and ml_collections alone: import it before the rest of the project.

A step needs neither readers of images nor annotations. What is not installed is replaced by names that can be imported and written in annotations, and fail when they are called.
"""

import importlib.util
import sys
import types

UNUSED = (
    "jaxtyping",
    "grain",
    "PIL",
    "safetensors",
    "safetensors.numpy",
    "matplotlib",
    "huggingface_hub",
    "sklearn",
    "msgpack",
)


class Missing:
    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing(f"{self._name}.{name}")

    def __getitem__(self, _):
        return self

    def __or__(self, _):
        return self

    __ror__ = __or__

    def __call__(self, *_, **__):
        raise ImportError(f"{self._name} is not installed, and this benchmark was not to need it")


def fill_in() -> None:
    """Puts the names in the place of what is missing."""
    for name in UNUSED:
        top = name.partition(".")[0]
        if (
            top == name
            and importlib.util.find_spec(name) is None
            or isinstance(getattr(sys.modules.get(top), "missing", None), bool)
        ):
            module = sys.modules[name] = types.ModuleType(name)
            module.missing, module.__path__ = True, []
            module.__getattr__ = lambda attribute, name=name: Missing(f"{name}.{attribute}")


fill_in()
