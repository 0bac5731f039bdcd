"""What one pass saves: python benchmarks/sampling.py --recipe none --model.preset small --size 32 --channels 4

The same DiT draws the same number of samples in one pass, as here, and by 50 and 500 Euler steps of an ODE, as a flow-matching model does (one pass of the network a step, and
two with classifier-free guidance). Random weights: the time does not depend on them. One JSON line at the end. The three are timed in turn.
"""

import functools
import json
import pathlib
import sys
import time

import bare  # noqa: F401  before the rest
import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from configs.default import Key
from models.build import build_generator
from models.generator import count_parameters, draw_style_indices, init_params
from utils import config as config_lib
from utils.logging import setup_logging

FLAGS = (
    Key("size", 32, "side of a sample", "[1, inf)"),
    Key("channels", 4, "its channels", "[1, inf)"),
    Key("classes", 1000, "classes", "[1, inf)"),
    Key("batch", 64, "samples in a batch", "[1, inf)"),
    Key("rounds", 3, "timings of each; the median is reported", "[1, inf)"),
    Key("guided", False, "two passes an Euler step, as with classifier-free guidance"),
)


@functools.partial(jax.jit, static_argnames=("model", "steps", "guided"))
def sample(model, params, noise, labels, style, steps, guided):
    """Samples [B, H, W, C]: of one pass where steps is 0, or else of so many Euler steps of dx/dt = v(x), v the network."""
    ones = jnp.ones(labels.shape)
    if steps == 0:
        return model.apply({"params": params}, noise, labels, ones, style)

    def euler(x, _):
        v = model.apply({"params": params}, x, labels, ones, style)
        if guided:
            v = 1.5 * v - 0.5 * model.apply(
                {"params": params}, x, jnp.zeros_like(labels), ones, style
            )
        return x + v / steps, None

    return jax.lax.scan(euler, noise, None, length=steps)[0]


def main(flag_values):
    setup_logging()
    flags, config = config_lib.all_flags(flag_values), config_lib.resolve(flag_values)
    model = build_generator(
        config.model, (flags["size"], flags["size"], flags.channels), flags.classes
    )
    params = jax.jit(lambda: init_params(model, jax.random.key(0)))()
    key = jax.random.key(1)
    inputs = (
        jax.random.normal(key, (flags.batch, *model.noise_shape)),
        jnp.arange(flags.batch) % flags.classes,
        draw_style_indices(model, key, flags.batch),
    )
    run, compile_s = {}, {}
    for steps in (0, 50, 500):
        begin = time.perf_counter()
        run[steps] = sample.lower(model, params, *inputs, steps, flags.guided).compile()
        compile_s[steps] = time.perf_counter() - begin
        run[steps](params, *inputs).block_until_ready()
    times = {steps: [] for steps in run}
    for _ in range(flags.rounds):
        for steps, program in run.items():
            begin = time.perf_counter()
            program(params, *inputs).block_until_ready()
            times[steps].append(time.perf_counter() - begin)
    seconds = {steps: float(np.median(t)) for steps, t in times.items()}
    rate = {
        f"images_per_s_{steps or 'one_pass'}": round(flags.batch / s, 3)
        for steps, s in seconds.items()
    }
    print(
        json.dumps(
            {
                "device": jax.devices()[0].device_kind,
                "parameters": count_parameters(params),
                "sample": list(model.sample_shape),
                "batch": flags.batch,
                "guided": flags.guided,
                "one_pass_ms": round(1e3 * seconds[0], 2),
                "euler_50_ms": round(1e3 * seconds[50], 2),
                "euler_500_ms": round(1e3 * seconds[500], 2),
                "times_50": round(seconds[50] / seconds[0], 1),
                "times_500": round(seconds[500] / seconds[0], 1),
                "compile_s": round(compile_s[0], 2),
            }
            | rate
        )
    )


if __name__ == "__main__":
    config_lib.define_flags(extra=FLAGS)
    config_lib.run_main(main)
