"""Recipes: the paper's numbers, and that each can be planned without a network, weights or data."""

import re
import types

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT

import data
from models.build import build_generator
from models.encoders.mae import PUBLISHED
from models.generator import count_parameters
from planning.step_shapes import stand_in
from training import drift
from utils import config as config_lib
from utils import sharding

# arXiv 2602.04770, Table 8. As in the authors' release: the positives of B/2, the path of the
# encoder, and the new reals of a step, counted for the whole job: what each of its 16 or 32 hosts
# pushes into a bank of its own goes into one bank here.
COLUMNS = (
    "optim.learning_rate",
    "optim.warmup_steps",
    "optim.weight_decay",
    "max_steps",
    "N_c",
    "drift.n_pos",
    "drift.n_neg",
    "drift.n_unc",
    "drift.bank_push",
    "drift.alpha_power",
    "drift.no_cfg_frac",
    "model.hidden_size",
    "model.depth",
    "model.num_heads",
    "model.patch_size",
    "encoder.name",
    "encoder.path",
    "FID, alpha",
)
TABLE_8 = {
    "imagenet256_ablation": (
        2e-4,
        5000,
        0.01,
        30_000,
        64,
        64,
        64,
        16,
        1024,
        3.0,
        0.0,
        768,
        12,
        12,
        2,
        "mae",
        "hf://mae_latent_256",
        "8.46 (paper, alpha 2.0)",
    ),
    "imagenet256_B": (
        4e-4,
        10_000,
        0.0,
        200_000,
        128,
        64,
        64,
        32,
        4096,
        5.0,
        0.0,
        768,
        12,
        12,
        2,
        "mae",
        "hf://mae_latent_640",
        "1.75 (paper, alpha 1.1)",
    ),
    "imagenet256_L": (
        4e-4,
        10_000,
        0.01,
        200_000,
        128,
        64,
        64,
        32,
        2048,
        3.0,
        0.5,
        1024,
        24,
        16,
        2,
        "mae",
        "hf://mae_latent_640",
        "1.54 (paper, alpha 1.0)",
    ),
    "imagenet256_pixel_B": (
        2e-4,
        10_000,
        0.01,
        100_000,
        128,
        128,
        64,
        32,
        4096,
        5.0,
        0.0,
        768,
        12,
        12,
        16,
        "mae+convnextv2",
        "hf://mae_pixel_640",
        "1.76 (paper)",
    ),
    "imagenet256_pixel_L": (
        4e-4,
        10_000,
        0.01,
        100_000,
        128,
        128,
        64,
        32,
        4096,
        5.0,
        0.0,
        1024,
        24,
        16,
        16,
        "mae+convnextv2",
        "hf://mae_pixel_640",
        "1.61 (paper)",
    ),
}
OF_ALL = {
    "optim.b1": 0.9,
    "optim.b2": 0.95,
    "optim.clip": 2.0,
    "optim.ema": (0.999, 0.9995, 0.9998, 0.9999),
    "optim.schedule": "constant",
    "drift.alpha_min": 1.0,
    "drift.alpha_max": 4.0,
    "drift.temperatures": (0.02, 0.05, 0.2),
    "drift.bank_per_class": 128,
    "drift.bank_global": 1000,
}


@pytest.mark.parametrize("recipe", TABLE_8)
def test_numbers_of_the_paper(recipe):
    config = config_lib.flatten(config_lib.resolve({"recipe": recipe}))
    found = config | {
        "N_c": config["batch_size"] // config["drift.n_neg"],
        "FID, alpha": re.search(r"Expected  FID (.*?\))", header(recipe))[1],
    }
    assert {k: found[k] for k in COLUMNS} == dict(zip(COLUMNS, TABLE_8[recipe], strict=True))
    assert {k: config[k] for k in OF_ALL} == OF_ALL


# W-Flow (arXiv 2605.11755) by size: parameters in millions, Sinkhorn iterations, FID.
W_FLOW = {"B": (133, 10, "1.52"), "L": (463, 1, "1.35"), "XL": (679, 1, "1.29")}


@pytest.mark.parametrize("size", W_FLOW)
def test_numbers_of_w_flow(size):
    """Also the batch of 8,192 and the 1,280 epochs of ImageNet's 1,281,167 images."""
    recipe = f"imagenet256_{size}_sinkhorn"
    config = config_lib.resolve({"recipe": recipe})
    million, iterations, fid = W_FLOW[size]
    assert (config.drift.field, config.drift.iterations) == ("sinkhorn", iterations)
    assert config.batch_size == 8192
    assert round(config.batch_size * config.max_steps / 1_281_167 / 1280, 2) == 1
    assert re.search(r"Expected  FID ([\d.]+)", header(recipe))[1] == fid
    assert round(parameters(config, (32, 32, 4)) / 1e6) == million


@pytest.mark.parametrize("recipe", ["B", "L", "pixel_B", "pixel_L"])
def test_at_512_as_at_256(recipe):
    """Twice the side and twice the patch: as many tokens, and nothing else differs."""
    at_256, at_512 = (
        config_lib.flatten(config_lib.resolve({"recipe": f"imagenet{side}_{recipe}"}))
        for side in (256, 512)
    )
    differs = {name: at_512[name] for name in at_256 if at_256[name] != at_512[name]}
    patch_size = 2 * at_256["model.patch_size"]
    named = {"recipe": f"imagenet512_{recipe}"}
    assert differs == named | {"data.image_size": 512, "model.patch_size": patch_size}


def parameters(config, shape):
    """Returns the number of parameters of the generator of samples of this shape."""
    model = build_generator(config.model, shape, 1000)
    inputs = (jnp.zeros((1, *shape)), jnp.zeros(1, int), jnp.zeros(1))
    style = jnp.zeros((1, model.noise_coords), int)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs, style)
    return count_parameters(shapes["params"])


# What is published with the paper: generators, and encoders.
RELEASED = {"ablation", "latent_B_sota", "latent_L_sota"} | set(PUBLISHED)


def test_names_of_the_hub_are_published():
    """Every hf://name that a recipe, a page or a program names; OWNER/REPOSITORY is another's."""
    found = set()
    for file in [*ROOT.glob("*.py"), *ROOT.glob("*.md"), *named_files()]:
        found |= set(re.findall(r"hf://([a-z][\w-]*)(?![\w/-])", file.read_text()))
    assert found - {"name"} <= RELEASED
    assert {"ablation", "mae_latent_256", "mae_latent_640", "mae_pixel_640"} <= found


def named_files():
    for folder in ("configs", "docs", "scripts", "benchmarks", "models", "training", "evaluation"):
        yield from (f for f in (ROOT / folder).rglob("*") if f.suffix in (".py", ".md", ".sh"))


def header(recipe):
    return (ROOT / "configs" / f"{recipe}.py").read_text().split('"""')[1]


@pytest.mark.parametrize("recipe", config_lib.recipes())
def test_headers(recipe):
    lines = header(recipe)
    for word in ("Command", "Hardware", "Time", "Expected", "Measured"):
        assert re.search(rf"^{word} ", lines, re.M), word
    assert re.search(
        r"^Command .*(python train_drift.py|\.sh)|^ +python train_drift.py", lines, re.M
    )


@pytest.mark.parametrize("recipe", config_lib.recipes())
def test_planned_offline(recipe):
    """What --dry_run does: every recipe is built from facts of its data alone.

    In the place of latents that the user has made stand those of scripts/plan.py.
    """
    config = config_lib.resolve({"recipe": recipe, "dry_run": True, "mesh.devices": 1})
    if recipe in data.SOURCES:
        assert config.dataset_name == recipe
    if recipe == "imagenet256_latent":
        dataset = stand_in(types.SimpleNamespace(stand_in="latents", samples=1_281_167), config)
    else:
        dataset = data.load(config.dataset_name, config.data.split, config.data, facts_only=True)
    parts = drift.build(config, dataset, sharding.make_mesh(1, 1))
    assert f"{config.max_steps:,}" in drift.report(parts)
