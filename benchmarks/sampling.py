"""What one pass saves.

    python benchmarks/sampling.py --recipe none --model.preset small --size 32 --channels 4

The same DiT draws the same number of samples in one pass, as here, and by 50 and by 500 Euler steps
of an ODE, as a flow-matching model does: one pass of the network a step, or two with --guided. The
three are timed in turn. Weights are random: the time does not depend on them. One line of JSON.
"""

import functools
import pathlib
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp

from benchmarks.frame import machine, print_line, time_in_turn
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
GUIDANCE_SCALE = 1.5
EULER_STEPS = {"one_pass": 0, "euler_50": 50, "euler_500": 500}


def main(flag_values):
    setup_logging()
    flags: Any = config_lib.all_flags(flag_values)
    config: Any = config_lib.resolve(flag_values)
    shape = (flags["size"], flags["size"], flags.channels)
    model = build_generator(config.model, shape, flags.classes)
    params = jax.jit(lambda: init_params(model, jax.random.key(0)))()
    key = jax.random.key(1)
    noise = jax.random.normal(key, (flags.batch, *model.noise_shape))
    labels = jnp.arange(flags.batch) % flags.classes
    inputs = (params, noise, labels, draw_style_indices(model, key, flags.batch))

    programs, compile_s = {}, {}
    for name, steps in EULER_STEPS.items():
        begin = time.perf_counter()
        compiled = sample.lower(model, *inputs, steps, flags.guided).compile()
        compile_s[name] = time.perf_counter() - begin
        programs[name] = functools.partial(compiled, *inputs)
    timing = time_in_turn(programs, flags.rounds)

    line = machine() | {
        "parameters": count_parameters(params),
        "sample": list(model.sample_shape),
        "batch": flags.batch,
        "guided": flags.guided,
    }
    line |= {f"{name}_ms": timing.milliseconds(name) for name in EULER_STEPS}
    one_pass = timing.median("one_pass")
    line["times_50"] = timing.median("euler_50") / one_pass
    line["times_500"] = timing.median("euler_500") / one_pass
    line["compile_s"] = compile_s["one_pass"]
    line["images_per_s_one_pass"] = flags.batch / one_pass
    line["images_per_s_50"] = flags.batch / timing.median("euler_50")
    line["images_per_s_500"] = flags.batch / timing.median("euler_500")
    line["matmul_gflop_per_s"] = timing.matmul_rate / 1e9
    print_line(line)


@functools.partial(jax.jit, static_argnames=("model", "steps", "guided"))
def sample(model, params, noise, labels, style, steps: int, guided: bool) -> jax.Array:
    """Returns samples [B, H, W, C].

    steps: 0 for one pass of the network, or else how many Euler steps of dx/dt = v(x) to take,
        with the network as v.
    """
    ones = jnp.ones(labels.shape)

    def network(x, labels):
        return model.apply({"params": params}, x, labels, ones, style)

    if steps == 0:
        return network(noise, labels)

    def euler(x, _):
        v = network(x, labels)
        if guided:
            without_class = network(x, jnp.zeros_like(labels))
            v = GUIDANCE_SCALE * v + (1 - GUIDANCE_SCALE) * without_class
        return x + v / steps, None

    samples, _ = jax.lax.scan(euler, noise, None, length=steps)
    return samples


if __name__ == "__main__":
    config_lib.define_flags(extra=FLAGS)
    config_lib.run_main(main)
