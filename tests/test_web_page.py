"""The page that generates in a browser: its network and its pixels are those of JAX."""

import functools
import http.server
import shutil
import threading

import jax
import numpy as np
import pytest
from browser import opened
from test_vae import spec_of, tensors_of, write

from baselines.flow import Flow
from evaluation.export_command import export
from evaluation.sample_command import Sampler
from evaluation.web_page import alpha_range, largest_difference, write_page
from models.dit import DiT
from models.generator import init_params
from models.latents import latent_space_of
from models.mlp import MLPGenerator
from models.onnx_format import one_pass, write_onnx
from models.sampling import generate
from utils import onnxruntime_web, packages
from utils.errors import UserError
from utils.figures import to_uint8
from utils.sharding import local_sharding

# Every option that changes the network. bfloat16 is computed in float32 here.
OPTIONS = {"noise_classes": 5, "noise_coords": 3, "n_cls_tokens": 2, "null_class": True}
OPTIONS |= {"use_qknorm": True, "use_rope": True, "use_swiglu": True, "use_rmsnorm": True}
OPTIONS |= {"clip_output": True, "clip_margin": 0.25, "refine_channels": 6, "antialias": 0.25}
SIZES = {"cond_dim": 64, "num_classes": 3, "hidden_size": 64, "depth": 2, "mlp_ratio": 4.0}
STYLES = {"noise_classes": 0, "noise_coords": 1}
IMAGES = {"input_size": (8, 4), "in_channels": 3, "out_channels": 3, "patch_size": 2}
WIDTHS = {"num_heads": 2, "use_bf16": True, "attn_fp32": False}


def sampler_of(model, space=None, **metadata):
    """Returns a generator with weights that all play a part: none is zero."""
    params = init_params(model, jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = []
    for leaf, key in zip(leaves, keys, strict=True):
        noisy.append(leaf + 0.1 * jax.random.normal(key, leaf.shape))
    return Sampler(model, tree.unflatten(noisy), metadata, space, seed=0, batch_size=1)


@pytest.fixture(scope="module")
def dit():
    return sampler_of(
        DiT(**SIZES, **IMAGES, **WIDTHS, **OPTIONS),
        dataset={"name": "cats</script>", "class_names": ["a<b", "bird", "cat"]},
        config={"drift": {"alpha_min": 1.0, "alpha_max": 3.0}},
    )


def with_exporter():
    pytest.importorskip("jax2onnx", reason="pip install -r requirements-web.txt")
    pytest.importorskip("onnxruntime", reason="pip install -r requirements-web.txt")


# ---------------------------------------------------------------- the network


def test_onnx_computes_what_jax_does(dit):
    """To float32's rounding; with weights in float16, of half the size, far within a grey level."""
    with_exporter()
    model = dit.model
    image_of = one_pass(model, dit.params)
    whole, half = (write_onnx(image_of, model, half) for half in (False, True))
    assert largest_difference(whole, image_of, dit) < 0.01
    assert 0 < largest_difference(half, image_of, dit) < 0.5
    assert len(half) < 0.65 * len(whole)


def test_an_mlp_and_a_decoder_of_latents(tmp_path):
    with_exporter()
    images = sampler_of(MLPGenerator(**SIZES, **STYLES, sample_shape=(4, 4, 1), use_bf16=False))
    spec = spec_of("vae_tiny")
    vae = write(tmp_path, spec["config"], tensors_of(spec))
    shape = (4, 4, spec["config"]["latent_channels"])
    model = MLPGenerator(**SIZES, **STYLES, sample_shape=shape, use_bf16=False)
    latents = sampler_of(model, latent_space_of(model, {}, str(vae), local_sharding()))
    for sampler in (images, latents):
        image_of = one_pass(sampler.model, sampler.params, sampler.space)
        content = write_onnx(image_of, sampler.model, False)
        assert largest_difference(content, image_of, sampler) < 0.01


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def address(dit, tmp_path_factory):
    """Serves the page of the DiT."""
    with_exporter()
    folder = tmp_path_factory.mktemp("web")
    try:
        assert write_page(folder, dit, True, "") < 0.5
    except UserError as error:
        if "npm" not in str(error):
            raise
        pytest.skip(str(error))
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A plain server of files."""

    def log_message(self, *_):
        pass


def pictures(page):
    """Returns the pictures on the page when they are done, uint8 [N,H,W,3]."""
    page.locator("#pictures[aria-busy=false]").wait_for()
    assert "ms each" in page.inner_text("#status"), page.inner_text("#status")
    read = """canvas => ({size: [canvas.height, canvas.width, 4],
      data: [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]})"""
    found = [canvas.evaluate(read) for canvas in page.locator("#pictures canvas").all()]
    return np.stack([np.array(c["data"], np.uint8).reshape(c["size"])[..., :3] for c in found])


def of_jax(sampler, labels, alpha, seed):
    """Returns the same pictures by the way of sample.py, in float32 as the page computes them."""
    model = sampler.model.clone(use_bf16=False)
    samples = generate(model, sampler.params, labels, alpha, seed)
    return to_uint8(np.concatenate(list(samples)))


def assert_same(shown, expected):
    assert shown.shape == expected.shape and expected.std() > 10
    assert np.abs(shown.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (390, "dark")])
def test_the_browser_shows_what_sample_py_draws(dit, address, width, scheme):
    viewport = {"width": width, "height": 900}
    with opened(address, viewport=viewport, color_scheme=scheme) as page:
        assert_same(pictures(page), of_jax(dit, np.arange(16) % 3, 1.0, 0))
        page.select_option("#count", "4")
        page.select_option("#label", "3")  # no class
        page.fill("#alpha", "2.5")
        page.fill("#seed", "123456789")
        assert_same(pictures(page), of_jax(dit, np.full(4, 3), 2.5, 123456789))
        page.fill("#between", "100")
        assert_same(pictures(page), of_jax(dit, np.full(4, 3), 2.5, 1))
        page.fill("#between", "50")
        middle = pictures(page)
        for seed in (1, 123456789):
            assert (middle != of_jax(dit, np.full(4, 3), 2.5, seed)).mean() > 0.2
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for control in page.locator("#controls input, #controls select").all():
            assert control.evaluate("c => c.labels.length === 1 && c.labels[0].innerText.length")
        label = page.locator("#pictures canvas").first.get_attribute("aria-label")
        assert label == "Generated picture 1, class no class"
        asked = [url for url in page.asked if not url.startswith("data:")]
        assert asked and all(url.startswith(address) for url in asked)


# ---------------------------------------------------------------- what is refused


def test_what_cannot_be_written_is_one_line(dit, tmp_path, monkeypatch):
    flow = Flow(dit.model.clone(noise_classes=0), 4)
    with pytest.raises(UserError, match="takes 4 passes"):
        one_pass(flow, {})
    with pytest.raises(UserError, match=r"\[8, 4, 3\]|no pictures"):
        one_pass(MLPGenerator(**SIZES, **STYLES, sample_shape=(2,), use_bf16=False), {})
    with pytest.raises(UserError, match="no_such_package is missing.*requirements-web"):
        packages.need("no_such_package", "it is needed", "requirements-web.txt")
    with pytest.raises(UserError, match="--load_dir, --out"):
        export(Flags(load_dir="", out="", push=""))
    with pytest.raises(UserError, match="--format web; leave them out"):
        export(Flags(load_dir="x", out="y", push="", space=False, license="", **OTHER))
    assert alpha_range({}) == (1.0, 4.0)


OTHER = {"format": "published", "vae": "z", "onnxruntime_web": ""}


class Flags:
    """The flags of a command."""

    def __init__(self, **values):
        self.__dict__.update(values)


def test_the_runtime_is_found_or_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out, package = tmp_path / "out", tmp_path / "package" / "dist"
    with pytest.raises(UserError, match="there is nothing"):
        onnxruntime_web.copy_runtime(out, str(tmp_path / "nowhere"))
    package.mkdir(parents=True)
    with pytest.raises(UserError, match="it has no ort"):
        onnxruntime_web.copy_runtime(out, str(package.parent))
    (tmp_path / "x.tgz").write_text("not an archive")
    with pytest.raises(UserError, match="no package of npm"):
        onnxruntime_web.copy_runtime(out, str(tmp_path / "x.tgz"))
    names = [name for files in onnxruntime_web.FILES.values() for name in files]
    for name in names:
        (package / name).write_text(name)
    onnxruntime_web.copy_runtime(out, str(package.parent))
    assert sorted(file.name for file in out.iterdir()) == sorted(names)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="npm is missing.*npm pack"):
        onnxruntime_web.copy_runtime(out)
    fetched = tmp_path / "cache/jax-drift" / f"onnxruntime-web-{onnxruntime_web.VERSION}"
    shutil.copytree(package, fetched)
    onnxruntime_web.copy_runtime(tmp_path / "from_cache")
    assert sorted(file.name for file in (tmp_path / "from_cache").iterdir()) == sorted(names)
