"""The page of scripts/play.py: pictures from JAX on this machine while controls move.

It is served by the package gradio, which is optional. By itself gradio reports each start to its
makers, and may load fonts from elsewhere; both are off, and the browser is told to ask this machine
alone.
"""

import logging
import math
import os
import random
import time
from typing import Any

import numpy as np

from evaluation.compare_runs import picture
from evaluation.sample_command import Sampler
from evaluation.web_page import COUNTS, SHARP, alpha_range
from models.sampling import generate_between
from utils.errors import UserError
from utils.figures import to_uint8
from utils.packages import need

REQUIREMENTS = "requirements-play.txt"
HOST = "127.0.0.1"
LARGEST_SEED = 2**32 - 1
EACH = "each in turn"
CSS = "figure { margin: 0; } figure img { width: 100%; max-width: 36rem; height: auto; }"
SHARP_CSS = "figure img { image-rendering: pixelated; }"
# What the browser may load: gradio's own files.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'"
)


class Player:
    """Draws what the controls ask for.

    Args:
        sampler: the generator, of pictures.
    """

    def __init__(self, sampler: Sampler):
        self.sampler = sampler
        self._compiled: set[tuple[int, bool]] = set()

    def labels(self, choice: str, count: int) -> np.ndarray:
        """Returns the labels of some pictures: of one class, or each class in turn."""
        classes = self.choices()
        if choice == EACH:
            return np.arange(count, dtype=np.int32) % self.sampler.n_classes
        return np.full(count, classes.index(choice) - 1, np.int32)

    def choices(self) -> list[str]:
        """Returns what the control of the class offers; entry i + 1 is label i."""
        model = self.sampler.model
        labels = range(self.sampler.n_classes + bool(model.null_class))
        return [EACH, *(f"{label}: {self.sampler.class_name(label)}" for label in labels)]

    def draw(
        self, choice: str, alpha: float, seed: int, other: int, percent: float, count: int
    ) -> np.ndarray:
        """Returns pictures, uint8 [count, H, W, C].

        Picture i of a seed is that of `sample.py --num_samples` with the seed.

        Args:
            choice: one of `choices`.
            alpha: guidance scale.
            seed, other: of the two noises.
            percent: of the way from the first noise to the other.
            count: how many.
        """
        sampler = self.sampler
        samples = generate_between(
            sampler.model,
            sampler.params,
            sampler.given(self.labels(choice, count)),
            alpha,
            (within(seed), within(other)),
            percent / 100,
        )
        return to_uint8(sampler.space.decode(samples) if sampler.space else samples)

    def show(
        self, choice: str, alpha: float, seed: int, other: int, percent: float, count: int
    ) -> tuple[str, str]:
        """Returns the grid as HTML, and how long a picture took in words."""
        wish = (choice, alpha, seed, other, percent, int(count))
        program = (int(count), 0 < percent < 100)
        if program not in self._compiled:  # so that no compilation is in the time
            self.draw(*wish)
            self._compiled.add(program)
        start = time.perf_counter()
        images = self.draw(*wish)
        each = 1000 * (time.perf_counter() - start) / len(images)
        text = f"{len(images)} generated pictures, class {choice}"
        shown = picture(images, math.ceil(math.sqrt(len(images))), text, "")
        return shown, f"{len(images)} pictures, {each:.2f} ms each, by JAX."


def within(seed: float | None) -> int:
    """Returns a seed that JAX takes; an empty field gives 0."""
    return min(max(int(seed or 0), 0), LARGEST_SEED)


# ---------------------------------------------------------------- the page


def open_page(sampler: Sampler) -> Any:
    """Returns the page, a `gradio.Blocks` that can be served by `serve`.

    Raises:
        UserError: gradio is missing, or the samples are no pictures.
    """
    if not sampler.makes_pictures:
        raise UserError("the generator makes no pictures: give one of images or latents")
    gradio = import_gradio()
    player = Player(sampler)
    name = (sampler.metadata.get("dataset") or {}).get("name") or "a generator"
    with gradio.Blocks(title=f"Generate: {name}", analytics_enabled=False) as blocks:
        gradio.Markdown(f"# Generate: {name}\nEach picture is one pass of a network.")
        with gradio.Row():
            with gradio.Column(scale=3, min_width=320):
                shown = gradio.HTML(elem_id="pictures")
                status = gradio.Markdown(elem_id="status")
            with gradio.Column(scale=2, min_width=280):
                percent = gradio.Slider(0, 100, 0, step=1, label="From one noise to the other, %")
                seed = gradio.Number(0, label="One noise, its seed", precision=0)
                other = gradio.Number(1, label="The other, its seed", precision=0)
                another = gradio.Button("Other seeds")
                label = gradio.Dropdown(player.choices(), value=EACH, label="Class")
                count = gradio.Radio(list(COUNTS), value=16, label="Pictures")
                alpha = alpha_slider(gradio, *alpha_range(sampler.metadata))
        controls = [label, alpha, seed, other, percent, count]
        changes = [blocks.load, *(control.change for control in controls)]
        gradio.on(
            changes,
            player.show,
            controls,
            [shown, status],
            show_progress="hidden",
            trigger_mode="always_last",  # of a slider in motion, the place where it stops
            concurrency_limit=1,
        )
        another.click(other_seeds, outputs=[seed, other], show_progress="hidden")
    return blocks


def alpha_slider(gradio: Any, low: float, high: float) -> Any:
    """Returns the control of the guidance scale, fixed where the generator knows one alone."""
    if low < high:
        return gradio.Slider(low, high, low, step=0.1, label="Guidance alpha")
    label = "Guidance alpha (trained for one alone)"
    return gradio.Slider(low, low + 1, low, label=label, interactive=False)


def other_seeds() -> tuple[int, int]:
    """Returns two seeds by chance."""
    return random.randrange(2**31), random.randrange(2**31)


def import_gradio() -> Any:
    """Returns the package gradio, which will not call home."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request to itself
    return need("gradio", "scripts/play.py needs it", REQUIREMENTS)


def serve(blocks: Any, sampler: Sampler, port: int, share: bool) -> str:
    """Serves the page on this machine, in threads, and returns its address.

    Args:
        blocks: of `open_page`; `blocks.block_thread()` waits for Ctrl-C.
        sampler: the generator.
        port: 0 = the first free one from 7860 on.
        share: also at a public address, through a tunnel of gradio's makers.
    Raises:
        UserError: the port is taken.
    """
    gradio = import_gradio()
    is_small = to_height(sampler) < SHARP
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        _, address, public = blocks.launch(
            server_name=HOST,
            server_port=port or None,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            footer_links=[],
            theme=theme,
            css=CSS + SHARP_CSS if is_small else CSS,
            app_kwargs={"middleware": [policy_header()]},
        )
    except OSError as error:
        raise UserError(f"--port {port}: {error}; give another one, or 0 for a free one") from error
    return public or address


def to_height(sampler: Sampler) -> int:
    """Returns the height of a picture in pixels."""
    shape = sampler.model.sample_shape
    return (sampler.space.image_shape(shape) if sampler.space else shape)[0]


def policy_header() -> Any:
    """Returns a layer of the server that sends POLICY with each page."""
    starlette = need("starlette.middleware", "gradio needs it", REQUIREMENTS)

    class SendPolicy:
        def __init__(self, app: Any):
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def send_with_policy(message: Any) -> None:
                if message["type"] == "http.response.start":
                    header = (b"content-security-policy", POLICY.encode())
                    message = message | {"headers": [*message["headers"], header]}
                await send(message)

            await self.app(scope, receive, send_with_policy)

    return starlette.Middleware(SendPolicy)
