"""Writes one pass of a generator as an ONNX model, for programs without JAX, such as a browser.

The exporter is the package jax2onnx, which is optional. It knows no loops, so the network is traced
here first, and its loop over the blocks is written out.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from baselines.flow import Flow
from models.generator import GeneratorModel, count_parameters
from models.latents import LatentSpace
from utils.errors import UserError
from utils.logging import without_warnings
from utils.packages import need

PACKAGE = "jax2onnx"
REQUIREMENTS = "requirements-web.txt"
# Loggers that tell each step of the export.
TALKING = (PACKAGE, "onnx_ir", "root")
INPUTS = ("noise", "label", "alpha", "style")
OUTPUT = "image"
LARGEST_FILE = 2**31 - 2**20  # bytes of an ONNX model with its weights inside; the format's limit
SMALL = 4096  # numbers: a smaller tensor keeps its float32

# (noise [1,H,W,C], label [1], alpha [1], style [1,S]) -> image [1,H,W,C], float32 in about [-1, 1]
OnePass = Callable[..., jax.Array]


def one_pass(model: GeneratorModel, params: Any, space: LatentSpace | None = None) -> OnePass:
    """Returns one pass from noise to a picture, all of it in float32.

    Args:
        model, params: a generator of one pass.
        space: the VAE that decodes samples which are latents; None for pixels.
    Raises:
        UserError: a rectified flow, which takes many passes, or samples that are no pictures.
    """
    if isinstance(model, Flow):
        raise UserError(
            f"a rectified flow takes {model.steps} passes to a picture, but ONNX is written of "
            "one-pass generators: give a run of --objective drift"
        )
    if len(model.sample_shape) != 3 or (space is None and model.sample_shape[-1] not in (1, 3)):
        raise UserError(
            f"the generator makes samples of {list(model.sample_shape)}, which are no pictures: "
            "give one of images, or of latents with its --vae"
        )
    network: Any = model
    in_float32 = {"use_bf16": False, "attention": "xla"}
    network = network.clone(**{k: v for k, v in in_float32.items() if hasattr(network, k)})
    params = jax.tree.map(_to_float32, params)

    def image_of(noise, label, alpha, style):
        sample = network.apply({"params": params}, noise, label, alpha, style)
        if space is None:
            return sample
        return space.vae.decode(space.params, space.vae.unscale(sample))

    return image_of


def write_onnx(image_of: OnePass, model: GeneratorModel, half: bool) -> bytes:
    """Returns an ONNX model of `one_pass`, for one picture a call, with the weights inside.

    Its inputs are INPUTS, its output is OUTPUT, with the shapes of OnePass.

    Args:
        image_of: of `one_pass`.
        model: its generator.
        half: weights are stored in float16. Everything is computed in float32 all the same.
    Raises:
        UserError: jax2onnx is missing, or the model is too large for the format.
    """
    shapes = input_shapes(model)
    program = jax.make_jaxpr(image_of)(*shapes)
    size = 4 * count_parameters(program.consts)
    if size > LARGEST_FILE:
        raise UserError(
            f"the network has {size / 1e9:.1f} GB of float32 weights, but an ONNX model holds at "
            "most 2 GB: take a smaller one"
        )

    def without_loops(*inputs):
        return _evaluate(program.jaxpr, program.consts, inputs)[0]

    exporter = need(PACKAGE, "ONNX is written by it", REQUIREMENTS)
    silence = contextlib.redirect_stdout(io.StringIO())  # it prints what it finds
    with warnings.catch_warnings(), without_warnings(*TALKING), silence:
        warnings.simplefilter("ignore")
        exported = exporter.to_onnx(without_loops, shapes, return_mode="proto", model_name=OUTPUT)
    for value, name in zip(exported.graph.input, INPUTS, strict=True):
        _rename(exported.graph, value.name, name)
    _rename(exported.graph, exported.graph.output[0].name, OUTPUT)
    if half:
        _store_in_half(exported.graph)
    return exported.SerializeToString()


def input_shapes(model: GeneratorModel) -> list[jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of INPUTS."""
    return [
        jax.ShapeDtypeStruct((1, *model.noise_shape), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        jax.ShapeDtypeStruct((1, model.noise_coords), jnp.int32),
    ]


def _to_float32(leaf: Any) -> Any:
    return jnp.asarray(leaf, jnp.float32)


# ---- a program without loops ----


def _evaluate(program: Any, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """Returns the outputs of a traced program.

    What it calls is computed in its place, and its loops are written out, so that tracing this
    function gives a program of plain operations.
    """
    values = dict(zip(program.constvars, constants, strict=True))
    values.update(zip(program.invars, inputs, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if hasattr(variable, "val") else values[variable]

    for equation in program.eqns:
        given = [read(variable) for variable in equation.invars]
        inner = _inner(equation)
        if equation.primitive.name == "scan":
            results = _loop(equation.params, given)
        elif inner is not None:
            results = _evaluate(*inner, given)
        else:
            results = equation.primitive.bind(*given, **equation.params)
            if not equation.primitive.multiple_results:
                results = [results]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in program.outvars]


def _inner(equation: Any) -> tuple[Any, Sequence[Any]] | None:
    """Returns the program that an equation calls, with its constants; None if it calls none."""
    for value in equation.params.values():
        if hasattr(value, "jaxpr"):
            return value.jaxpr, value.consts
        if hasattr(value, "eqns"):
            return value, []
    return None


def _loop(params: Any, given: Sequence[Any]) -> list[Any]:
    """Returns the outputs of a scan: what it carries at the end, and what its turns gave."""
    n_same, n_carried = params["num_consts"], params["num_carry"]
    same, carried = given[:n_same], given[n_same : n_same + n_carried]
    stacked = given[n_same + n_carried :]
    body, turns = params["jaxpr"], []
    for i in range(params["length"]):
        slices = [array[i] for array in stacked]
        results = _evaluate(body.jaxpr, body.consts, [*same, *carried, *slices])
        carried = results[:n_carried]
        turns.append(results[n_carried:])
    return [*carried, *(jnp.stack(arrays) for arrays in zip(*turns, strict=True))]


# ---- an ONNX graph ----


def _rename(graph: Any, old: str, new: str) -> None:
    """Gives a value of a graph another name, wherever it stands."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.name == old:
            value.name = new
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new


def _store_in_half(graph: Any) -> None:
    """Stores the large weights in float16; a first operation turns each into float32 again."""
    onnx = need("onnx", "ONNX is written by it", REQUIREMENTS)
    casts = []
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.size < SMALL:
            continue
        with np.errstate(over="ignore"):
            halves = array.astype(np.float16)
        if not np.isfinite(halves).all():  # beyond 65,504
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(halves, f"{name}_half"))
        to = onnx.TensorProto.FLOAT
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=to))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
