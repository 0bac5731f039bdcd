"""The page that JAX serves: the pictures of sample.py, and nothing leaves this machine."""

import base64
import io
import re
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from browser import opened
from PIL import Image
from test_web_page import SIZES, STYLES, sampler_of

from evaluation.play_page import EACH, Player, open_page, serve, within
from models.generator import draw_style_indices
from models.mlp import MLPGenerator
from models.sampling import generate, generate_between
from utils.errors import UserError
from utils.figures import to_uint8

METADATA = {"dataset": {"name": "cats", "class_names": ["a<b", "bird", "cat"]}}
METADATA["config"] = {"drift": {"alpha_min": 1.0, "alpha_max": 3.0}}


@pytest.fixture(scope="module")
def sampler():
    model = MLPGenerator(**SIZES, **STYLES, sample_shape=(4, 4, 1), use_bf16=False)
    return sampler_of(model, **METADATA)


def of_jax(sampler, labels, alpha, seed):
    """Returns samples of a seed as sample.py draws them, in one batch."""
    given = sampler.model, sampler.params, labels, alpha, seed
    return np.concatenate(list(generate(*given, batch_size=len(labels))))


def test_the_way_between_two_noises(sampler):
    model, params, labels = sampler.model, sampler.params, np.array([0, 2, 1, 0], np.int32)

    def at(t):
        return generate_between(model, params, labels, 1.5, (7, 9), t)

    np.testing.assert_array_equal(at(0), of_jax(sampler, labels, 1.5, 7))
    np.testing.assert_array_equal(at(1), of_jax(sampler, labels, 1.5, 9))
    noises, styles = [], []
    for seed in (7, 9):
        key = jax.random.fold_in(jax.random.key(seed), 1)
        noise_key, style_key = jax.random.split(key)
        noises.append(jax.random.normal(noise_key, model.noise_shape))
        styles.append(draw_style_indices(model, style_key, 1))
    for t, style in ((0.25, styles[0]), (0.75, styles[1])):
        noise = np.cos(t * np.pi / 2) * noises[0] + np.sin(t * np.pi / 2) * noises[1]
        given = jnp.array([2]), jnp.array([1.5])
        expected = jax.jit(model.apply)({"params": params}, noise[None], *given, style)
        np.testing.assert_allclose(at(t)[1], expected[0], atol=1e-5)


def test_what_the_controls_ask_for(sampler):
    player = Player(sampler)
    assert player.choices() == [EACH, "0: a<b", "1: bird", "2: cat"]
    assert player.labels(EACH, 4).tolist() == [0, 1, 2, 0]
    assert player.labels("1: bird", 2).tolist() == [1, 1]
    shown, status = player.show("0: a<b", 1.5, 7, 9, 0, 4)
    assert "class 0: a&lt;b" in shown and "a<b" not in shown
    assert re.fullmatch(r"4 pictures, [\d.]+ ms each, by JAX\.", status)
    assert [within(seed) for seed in (None, -1, 2**40, 5.0)] == [0, 0, 2**32 - 1, 5]
    model = MLPGenerator(**SIZES, **STYLES, sample_shape=(2,), use_bf16=False)
    with pytest.raises(UserError, match="makes no pictures"):
        open_page(sampler_of(model))


def pictures(page, count):
    """Returns the pictures of the grid that the page shows, uint8 [count, 4, 4]."""
    source = page.locator("#pictures img").get_attribute("src")
    content = base64.b64decode(source.partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    side = int(np.sqrt(count))
    lines = (pixels.shape[0] - 4 * side) // side  # between pictures
    cells = [
        pixels[row : row + 4, column : column + 4]
        for row in range(0, side * (4 + lines), 4 + lines)
        for column in range(0, side * (4 + lines), 4 + lines)
    ]
    return np.stack(cells)


@pytest.mark.slow
@pytest.mark.parametrize("width, scheme", [(1280, "light"), (390, "dark")])
@pytest.mark.filterwarnings("ignore")  # of gradio
def test_the_page_in_a_browser(sampler, width, scheme, monkeypatch):
    pytest.importorskip("gradio", reason="pip install -r requirements-play.txt")
    asked = []
    for name in ("getaddrinfo", "create_connection"):
        original = getattr(socket, name)

        def noted(host, *args, original=original, **kwargs):
            asked.append(host[0] if isinstance(host, tuple) else host)
            return original(host, *args, **kwargs)

        monkeypatch.setattr(socket, name, noted)
    blocks = open_page(sampler)
    address = serve(blocks, sampler, port=0, share=False)
    try:
        viewport = {"width": width, "height": 900}
        with opened(address, viewport=viewport, color_scheme=scheme) as page:
            page.locator("#pictures img").wait_for()
            expected = to_uint8(of_jax(sampler, np.arange(16) % 3, 1.0, 0))[..., 0]
            np.testing.assert_array_equal(pictures(page, 16), expected)
            text = page.locator("#pictures img").get_attribute("alt")
            page.get_by_label("4", exact=True).check()
            page.get_by_label("One noise, its seed").fill("123456789")
            page.locator("#pictures img:not([alt='" + text + "'])").wait_for()
            expected = to_uint8(of_jax(sampler, np.arange(4) % 3, 1.0, 123456789))[..., 0]
            page.wait_for_timeout(2000)
            np.testing.assert_array_equal(pictures(page, 4), expected)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            elsewhere = [url for url in page.asked if not url.startswith(("data:", address))]
            assert page.asked and not elsewhere
        hosts = {str(host) for host in asked}
        assert hosts <= {"127.0.0.1", "localhost", "None"}, hosts
        with pytest.raises(UserError, match="--port .*; give another one"):
            other = open_page(sampler)
            serve(other, sampler, port=int(address.rstrip("/").rpartition(":")[2]), share=False)
    finally:
        blocks.close()
