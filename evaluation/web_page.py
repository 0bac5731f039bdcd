"""Writes a folder that makes pictures in a browser: one pass of a generator, and a page around it.

The folder is static: any server of files will do. It holds

    index.html, page.js, noise.js    the page
    model.onnx                       the network, and behind one of latents the VAE's decoder
    runtime/                         onnxruntime-web, which runs it by WebGPU or WebAssembly

Nothing is fetched from elsewhere, and the page tells the browser so.
"""

import html
import json
import pathlib
import shutil
from typing import Any

import numpy as np

from evaluation.sample_command import Sampler
from models.generator import count_parameters, draw_style_indices
from models.onnx_format import INPUTS, REQUIREMENTS, one_pass, write_onnx
from utils import onnxruntime_web, page
from utils.errors import UserError
from utils.files import cannot_write
from utils.packages import need

SOURCE = pathlib.Path(__file__).parent / "web"
SCRIPTS = ("page.js", "noise.js")
MODEL_FILE = "model.onnx"
COUNTS = (1, 4, 9, 16, 25, 64)  # pictures at once
CHECKED = 8  # pictures that are compared with those of JAX
GREY_LEVEL = 2 / 255  # of images in [-1, 1]
SHARP = 100  # pixels; a smaller picture is enlarged with sharp edges
ALPHA_MAX = 4.0  # where it is not known how far a generator was trained

# Its own files, WebAssembly, and nothing else.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; "
    "style-src 'unsafe-inline'; img-src data:"
)
STYLE = """
#studio { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
#shown { flex: 1 1 20rem; max-width: min(100%, 36rem); }
#pictures { display: grid; grid-template-columns: repeat(var(--columns, 1), 1fr); gap: 2px; }
#pictures canvas { width: 100%; }
#status { min-height: 1.5em; margin: 0.5rem 0 0; }
#controls { flex: 1 1 18rem; display: grid; gap: 1rem; grid-template-columns: 1fr 1fr; }
#controls .wide { grid-column: 1 / -1; }
#controls label { display: block; }
#controls select, #controls input { font: inherit; width: 100%; min-height: 2.5rem;
  box-sizing: border-box; accent-color: #3b7dd8; }
#controls .row { display: flex; gap: 0.5rem; }
#controls button { font: inherit; min-height: 2.5rem; padding: 0 1rem; }
"""


def write_page(folder: pathlib.Path, sampler: Sampler, half: bool, runtime: str) -> float:
    """Writes the folder and returns how far its pictures are from those of JAX.

    That is the largest difference of a pixel, in grey levels of 255, of CHECKED pictures that
    onnxruntime computes here from the file that was written.

    Args:
        folder: made if missing; its files of the same names are replaced.
        sampler: the generator.
        half: weights are stored in float16.
        runtime: onnxruntime-web, or "" for that of npm; see `utils.onnxruntime_web`.
    Raises:
        UserError: the generator makes no pictures in one pass, or an optional package is missing.
    """
    if sampler.model.condition_width:
        raise UserError(
            "the page for browsers has controls for classes, and none for conditions "
            "(--data.condition_column); sample.py --conditions draws them"
        )
    image_of = one_pass(sampler.model, sampler.params, sampler.space)
    content = write_onnx(image_of, sampler.model, half)
    onnxruntime_web.copy_runtime(folder / "runtime", runtime)
    try:
        (folder / MODEL_FILE).write_bytes(content)
        for name in SCRIPTS:
            shutil.copyfile(SOURCE / name, folder / name)
        (folder / "index.html").write_text(index_page(sampler, len(content)), encoding="utf-8")
    except OSError as error:
        raise cannot_write(folder, error) from error
    return largest_difference(content, image_of, sampler)


def largest_difference(content: bytes, image_of: Any, sampler: Sampler) -> float:
    """Returns the largest difference of a pixel between onnxruntime and JAX, in grey levels."""
    import jax

    runtime = need("onnxruntime", "it checks what was written", REQUIREMENTS)
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    used = {value.name for value in session.get_inputs()}
    image_of = jax.jit(image_of)
    largest = 0.0
    for i in range(CHECKED):
        key = jax.random.fold_in(jax.random.key(sampler.seed), i)
        noise = jax.random.normal(key, (1, *sampler.model.noise_shape))
        label = np.array([i % sampler.model.num_classes], np.int32)
        style = draw_style_indices(sampler.model, key, 1)
        given = (noise, label, np.ones(1, np.float32), style)
        feeds = {k: np.asarray(v) for k, v in zip(INPUTS, given, strict=True) if k in used}
        (written,) = session.run(None, feeds)
        expected = np.asarray(image_of(*given))
        difference = np.abs(np.clip(written, -1, 1) - np.clip(expected, -1, 1)).max()
        largest = max(largest, float(difference) / GREY_LEVEL)
    return largest


# ---------------------------------------------------------------- the page


def index_page(sampler: Sampler, model_bytes: int) -> str:
    """Returns index.html."""
    facts = page_facts(sampler)
    name = (sampler.metadata.get("dataset") or {}).get("name") or "a generator"
    height, width, _ = facts["imageShape"]
    count = count_parameters(sampler.params)
    parts = [
        page.lead("Pictures that your own device makes, each in one pass of a network."),
        '<div id="studio"><div id="shown"><div id="pictures"></div>',
        '<p id="status" role="status">Loading the network ...</p></div>',
        controls(facts, alpha_range(sampler.metadata)),
        "</div>",
        page.note(
            f"{width}x{height} pixels, {count:,} parameters, {model_bytes / 1e6:.1f} MB. Nothing "
            "is sent anywhere. A seed gives the same pictures as sample.py --num_samples with it."
        ),
        f'<script type="application/json" id="facts">{json_inside(facts)}</script>',
    ]
    end = (
        "<noscript><p>The pictures need JavaScript.</p></noscript>\n"
        '<script type="module" src="page.js"></script>'
    )
    style = STYLE
    if height < SHARP:
        style += "#pictures canvas { image-rendering: pixelated; }\n"
    return page.page(f"Generate: {name}", parts, policy=POLICY, style=style, end=end)


def page_facts(sampler: Sampler) -> dict[str, Any]:
    """Returns what page.js needs to know."""
    model, space = sampler.model, sampler.space
    shape = space.image_shape(model.sample_shape) if space else model.sample_shape
    return {
        "noiseShape": list(model.noise_shape),
        "imageShape": list(shape),
        "styleCount": model.noise_coords,
        "styleEntries": model.noise_classes,
        "classes": [sampler.class_name(label) for label in range(model.num_classes)],
        "noClass": bool(model.null_class),
        "runtime": onnxruntime_web.FILES,
    }


def alpha_range(metadata: dict[str, Any]) -> tuple[float, float]:
    """Returns the least and the greatest guidance scale that a generator was trained for."""
    drift = (metadata.get("config") or {}).get("drift") or {}
    return float(drift.get("alpha_min", 1.0)), float(drift.get("alpha_max", ALPHA_MAX))


def controls(facts: dict[str, Any], alphas: tuple[float, float]) -> str:
    """Returns the form: class, alpha, seed, the way to another seed, how many pictures."""
    classes = [("each", "each in turn"), *((str(i), c) for i, c in enumerate(facts["classes"]))]
    if facts["noClass"]:
        classes.append((str(len(facts["classes"])), "no class"))
    low, high = alphas
    fixed = " disabled" if low == high else ""
    trained = " (trained for one alone)" if fixed else ""
    counts = [(str(n), str(n)) for n in COUNTS]
    return f"""<form id="controls">
<div class="wide"><label for="between">From one noise to the other: <span id="between-told"></span>
</label><input id="between" type="range" min="0" max="100" value="0"></div>
<div><label for="seed">One noise, its seed</label>
<input id="seed" type="number" min="0" max="4294967295" step="1" value="0"></div>
<div><label for="other">The other, its seed</label>
<input id="other" type="number" min="0" max="4294967295" step="1" value="1"></div>
<div class="wide"><button id="another" type="button">Other seeds</button></div>
<div><label for="label">Class</label>{choice("label", classes, "each")}</div>
<div><label for="count">Pictures</label>{choice("count", counts, "16")}</div>
<div class="wide"><label for="alpha">Guidance alpha{trained}: <span id="alpha-told"></span></label>
<input id="alpha" type="range" min="{low:g}" max="{high:g}" step="0.1" value="{low:g}"{fixed}></div>
</form>
"""


def choice(name: str, options: list[tuple[str, str]], chosen: str) -> str:
    """Returns a list to choose from: (value, text) of each option."""
    parts = []
    for value, text in options:
        mark = " selected" if value == chosen else ""
        parts.append(f'<option value="{value}"{mark}>{html.escape(text)}</option>')
    return f'<select id="{name}">{"".join(parts)}</select>'


def json_inside(facts: dict[str, Any]) -> str:
    """Returns JSON that may stand inside a script element: no "<" can end it."""
    return json.dumps(facts).replace("<", "\\u003c")
