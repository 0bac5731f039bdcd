"""What one device computes of many images, so that the number of devices changes no bit of it."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def on_one_device(
    function: Callable[[Any, jax.Array], Any], params: Any, at_once: int
) -> Callable[[np.ndarray], Any]:
    """Returns images [S, ...] -> function(params, images), in NumPy, for S up to `at_once`.

    Args:
        function: (params, images [at_once, ...]) -> a tree of arrays [at_once, ...].
        params: on any device.
        at_once: images of a call. Fewer are filled up, so that one program serves all.
    """
    device = jax.local_devices()[0]
    params = jax.device_put(params, device)
    jitted = jax.jit(function)

    def compute(images: np.ndarray) -> Any:
        missing = np.zeros((at_once - len(images), *images.shape[1:]), images.dtype)
        padded = jax.device_put(np.concatenate([images, missing]), device)
        results = jax.device_get(jitted(params, padded))
        return jax.tree.map(lambda a: a[: len(images)], results)

    return compute
