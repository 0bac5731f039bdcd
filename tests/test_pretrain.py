"""Pre-training of the encoder.

The step against NumPy and its parts, the schedule, exact resume, the run as an encoder, mistakes
that end in one line. The data are real and the network is tiny.
"""

import dataclasses
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from conftest import CHILD_XLA_FLAGS, OF_MANY_STEPS, ROOT, share_steps
from PIL import Image
from test_train import as_at

from configs.default import OF_TRAINERS
from drifting.state import named_key
from models.encoders import load_encoder
from models.mae import random_mask
from models.mae_step import MAEConfig, class_weight, random_resized_crop
from models.runs import load_mae_run, load_run
from training import loop, mae
from training.resolve_encoder import read_encoder
from training.state import to_items
from utils import compiler, sharding
from utils import config as config_lib
from utils.checkpoint import Checkpoints
from utils.config import MAE_TRAINER
from utils.errors import UserError

TINY = {
    "dataset_name": "digits",
    "recipe": "none",
    "batch_size": 32,
    "max_steps": 48,
    "log_interval": 1,
    "save_interval": 16,
    "sample_interval": 0,
    "eval_interval": 0,
    "mae.base_channels": 16,
    "mae.layers": "1,1,1,1",
    "mae.use_bf16": False,
    "mae.crop_area": 0.7,
    "mae.finetune_steps": 32,
    "mae.class_warmup": 10,
    "mae.class_weight": 0.5,
    "optim.warmup_steps": 5,
    "optim.ema": (0.9,),
    "mesh.devices": 1,
}
TIMING = ("images_per_s", "mfu", "goodput", "seconds", "data_wait")


def parts_of(changes=(), devices=1, fsdp=1):
    config = config_lib.resolve(
        TINY | {"mesh.devices": devices, "mesh.fsdp": fsdp} | dict(changes), schema=MAE_TRAINER
    )
    return mae.build(config, sharding.make_mesh(devices, fsdp))


def train(folder, changes=(), until=None, **kw):
    """until: of the steps that the schedules are made for."""
    parts = parts_of({"save_dir": str(folder)} | dict(changes), **kw)
    if until:
        config = parts.config.copy_and_resolve_references()
        with config.unlocked():
            config.max_steps = until
        parts = dataclasses.replace(parts, config=config)
    loop.train(mae.MAEJob(parts, mae.MAEJob.open_run(parts.config)))
    return records(folder)


def records(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def everything_saved(folder):
    shapes = to_items(mae.state_shapes(parts_of()))
    return Checkpoints(folder / "checkpoints").restore(
        jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), shapes)
    )


def same_bits(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def as_flags(settings):
    """Returns {name: value} as words of a command line."""
    words = []
    for name, value in settings.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        words.append(f"--{name}={text}")
    return words


crop = jax.jit(random_resized_crop, static_argnums=2)


@pytest.fixture(scope="module", autouse=True)
def steps_of_many():
    """Compiles all steps of this module alike, for speed, and those of the same numbers once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "options", lambda mesh: OF_MANY_STEPS)
        share_steps(patch)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An uninterrupted run, with figures, an evaluation and an export."""
    folder = tmp_path_factory.mktemp("mae") / "run"
    train(
        folder, {"eval_interval": 48, "sample_interval": 48, "mae.export": str(folder / "export")}
    )
    return folder


# ---------------------------------------------------------------- the step


def test_crops_are_bilinear_resizes_of_a_rectangle():
    """A crop of a ramp is a ramp whose slope is the share of the side, and that lies in the image.

    An image of noise is compared with interpolation in NumPy.
    """
    n, height, width = 200, 12, 18
    rows = jnp.broadcast_to(
        jnp.arange(height, dtype=jnp.float32)[:, None, None], (height, width, 1)
    )
    columns = jnp.broadcast_to(jnp.arange(width, dtype=jnp.float32)[:, None], (height, width, 1))
    noise = jax.random.normal(jax.random.key(1), (height, width, 1))
    x = jnp.broadcast_to(jnp.concatenate([rows, columns, noise], -1), (n, height, width, 3))
    out = np.asarray(crop(jax.random.key(0), x, 0.3))
    y, x_ = out[:, 5, 5, 0], out[:, 5, 5, 1]
    share_h, share_w = (
        out[:, 6, 5, 0] - y,
        out[:, 5, 6, 1] - x_,
    )  # slopes in the middle, far from the edges
    inner = slice(2, -2)
    for axis, slope, channel in ((1, share_h, 0), (2, share_w, 1)):
        slopes = np.diff(np.moveaxis(out[..., channel], axis, 1)[:, inner], axis=1)
        np.testing.assert_allclose(
            slopes, np.broadcast_to(slope[:, None, None], slopes.shape), atol=1e-4
        )
    area = share_h * share_w
    assert area.min() > 0.25 and area.max() <= 1 + 1e-5 and 0.55 < area.mean() < 0.72
    assert (
        1.2 < (share_w / share_h).max() < 4 / 3 + 1e-3
        and 1.2 < (share_h / share_w).max() < 4 / 3 + 1e-3
    )
    i, j = y, x_  # the place in the image that the pixel (5, 5) shows
    low = np.floor(np.stack([i, j], 1)).astype(int)
    grid, image = np.stack([i, j], 1) - low, np.asarray(noise)[..., 0]
    value = sum(
        image[np.clip(low[:, 0] + a, 0, height - 1), np.clip(low[:, 1] + b, 0, width - 1)]
        * abs(1 - a - grid[:, 0])
        * abs(1 - b - grid[:, 1])
        for a in (0, 1)
        for b in (0, 1)
    )
    np.testing.assert_allclose(out[:, 5, 5, 2], value, atol=1e-3)
    same_bits(crop(jax.random.key(0), x, 1), x)


def test_step_against_numpy():
    """A step of the fine-tuning is computed by hand from the network's outputs.

    It is the squares of the hidden cells alone, the entropy, and their mix.
    """
    parts, at = parts_of(), 18  # the third step of the fine-tuning: lambda is 0.3 of 0.5
    state = mae.make_state(parts).replace(step=jnp.int32(at))
    before = jax.tree.map(np.asarray, state.params)
    images, labels = (
        np.asarray(parts.dataset.samples.images[:32]),
        np.asarray(parts.dataset.samples.labels[:32]),
    )
    x = np.asarray(
        crop(named_key(0, "crop", at), jnp.asarray(images / 127.5 - 1, jnp.float32), 0.7)
    )
    mask = np.asarray(random_mask(named_key(0, "mask", at), (32, 8, 8, 1), 2, 0.5))
    outputs = jax.jit(lambda params: parts.model.apply({"params": params}, x, mask, False))(before)
    recon, logits = (np.asarray(a, np.float64) for a in outputs)
    rec, cls, right = [], [], []
    for b in range(32):
        hidden = [
            (recon[b, i, j] - x[b, i, j]) ** 2 for i in range(8) for j in range(8) if mask[b, i, j]
        ]
        rec.append(np.sum(hidden) / len(hidden))
        cls.append(np.log(np.sum(np.exp(logits[b] - logits[b, labels[b]]))))
        right.append(np.argmax(logits[b]) == labels[b])
    new, metrics = mae.make_step(parts)(state, images, labels)
    expected = {
        "loss_rec": np.mean(rec),
        "loss_cls": np.mean(cls),
        "accuracy": np.mean(right),
        "class_weight": 0.15,
        "loss": 0.85 * np.mean(rec) + 0.15 * np.mean(cls),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    assert int(new.step) == at + 1
    jax.tree.map(
        lambda e, p, q: np.testing.assert_allclose(e, 0.9 * p + 0.1 * q, atol=1e-6),
        new.ema["0.9"],
        before,
        new.params,
    )


def test_weight_of_the_classifier():
    c = MAEConfig(
        mask_prob=0.5,
        crop_area=1.0,
        flip=False,
        finetune_from=100,
        class_weight=0.1,
        class_warmup=50,
    )
    steps = np.array([0, 99, 100, 124, 149, 150, 5000])
    np.testing.assert_allclose(
        [class_weight(s, c) for s in steps], [0, 0, 0.1 / 50, 0.05, 0.1, 0.1, 0.1], rtol=1e-6
    )


def test_classifier_learns_only_in_the_fine_tuning(run):
    """Its loss enters from there on."""
    rows = [r for r in records(run) if "loss" in r]
    assert [r["class_weight"] > 0 for r in rows] == [False] * 16 + [True] * 32
    assert all(r["loss"] == r["loss_rec"] for r in rows[:16]) and all(
        r["loss"] != r["loss_rec"] for r in rows[16:]
    )


# ---------------------------------------------------------------- the run


def test_interrupted_run_ends_in_the_same_bits(run, tmp_path):
    """Goes on from a save in the middle, and is stopped before the next and goes on again."""
    folder = as_at(32, run, tmp_path / "copy")
    train(folder, {"eval_interval": 40}, until=41)
    assert 40 in [record["step"] for record in records(folder) if "held_out_accuracy" in record]
    train(folder)
    tree, metadata, step = everything_saved(run)
    tree2, metadata2, _ = everything_saved(folder)
    assert step == 48 and metadata["position"] == metadata2["position"] == 48 * 32
    same_bits(tree, tree2)
    assert trained(run) == trained(folder)


def trained(folder):
    """Returns the log lines, without those of evaluations: only one of the runs has them."""
    return [record for record in records(folder) if "loss" in record]


@pytest.mark.slow
def test_killed_and_resumed_ends_in_the_same_bits(tmp_path):
    """SIGKILL at three random steps."""
    given = TINY | {"max_steps": 60, "mae.finetune_steps": 20, "eval_interval": 10}
    straight, killed = tmp_path / "straight", tmp_path / "killed"

    def command(folder):
        return [sys.executable, ROOT / "pretrain_mae.py", f"--save_dir={folder}", *as_flags(given)]

    env = os.environ | {"XLA_FLAGS": CHILD_XLA_FLAGS}
    assert subprocess.run(command(straight), env=env, timeout=300).returncode == 0
    for goal in sorted(random.Random(time.time_ns()).sample(range(2, 58), 3)):
        process = subprocess.Popen(command(killed), stderr=subprocess.DEVNULL, env=env)
        log, deadline = killed / "metrics.jsonl", time.time() + 200
        while (
            process.poll() is None
            and time.time() < deadline
            and not (log.exists() and log.read_text().count("\n") >= goal)
        ):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command(killed), env=env, timeout=300).returncode == 0
    tree, metadata, step = everything_saved(straight)
    tree2, metadata2, step2 = everything_saved(killed)
    assert step == step2 == 60 and metadata["position"] == metadata2["position"]
    same_bits(tree, tree2)
    assert records(straight) == records(killed)


@pytest.mark.slow
def test_devices_do_not_change_the_losses(run, tmp_path):
    many = train(tmp_path, {"max_steps": 2, "mae.finetune_steps": 0}, devices=4, fsdp=2)
    for row, one in zip(many, records(run), strict=False):
        for key in ("loss", "loss_cls"):
            np.testing.assert_allclose(row[key], one[key], rtol=1e-4, err_msg=key)


def test_learns_to_rebuild_and_to_classify(run):
    """The held-out loss ends below the variance of the pixels.

    The classes are told apart far better than by chance.
    """
    (last,) = [r for r in records(run) if "held_out_accuracy" in r]
    images = parts_of().held_out.samples.images / 127.5 - 1
    assert last["held_out_loss_rec"] < 0.9 * np.mean((images - images.mean(0)) ** 2)
    assert last["held_out_accuracy"] > 0.4


def test_run_folder_holds_what_a_run_holds(run):
    assert {"config.json", "checkpoints", "metrics.jsonl", "samples", "curves.png"} <= {
        p.name for p in run.iterdir()
    }
    (row,) = [r for r in records(run) if "held_out_loss_rec" in r]
    assert row["step"] == 48 and 0 <= row["held_out_accuracy"] <= 1
    grid = np.asarray(Image.open(run / "samples" / "step_00000048.png"))
    assert grid.std() > 30 and Image.open(run / "curves.png").size[0] > 300


# ---------------------------------------------------------------- the encoder


def test_run_and_export_are_encoders(run):
    """The first average is an encoder, by the run folder and in the published format.

    The export has the published metadata, and the generator's training takes either.
    """
    x = jnp.asarray(parts_of().held_out.samples.images[:4] / 127.5 - 1, jnp.float32)
    encode, params, metadata = load_encoder(f"mae:{run}")
    _, exported_params, facts = load_encoder(run / "export")
    same_bits(params, exported_params)
    same_bits(params, everything_saved(run)[0]["ema_0.9"])
    sets = jax.eval_shape(encode, params, x)
    assert (
        sets["layer1"].shape == (4, 64, 16)
        and sets["layer4_mean"].shape == (4, 1, 128)
        and metadata["step"] == 48
    )
    few = {"names": ("layer[34]",), "statistics": ("mean",), "patch_sizes": ()}
    ours, theirs = (
        jax.jit(load_encoder(where, **few)[0])(params, x)
        for where in (f"mae:{run}", run / "export")
    )
    same_bits(ours, theirs)
    published = json.loads((ROOT / "tests/golden/mae_latent_small/metadata.json").read_text())
    written = json.loads((run / "export" / "metadata.json").read_text())
    assert (
        set(published) <= set(written)
        and set(published["model_config"]) == set(written["model_config"])
        and facts["step"] == 48
    )
    config = config_lib.resolve(
        {"dataset_name": "digits", "encoder.name": "none+mae", "encoder.path": f",{run}"}
    )
    encode, params = read_encoder(config.encoder, load_encoder)
    assert "global" in jax.eval_shape(encode, params, x)


def test_a_run_of_the_other_kind_is_refused(run):
    with pytest.raises(UserError, match="run of an encoder"):
        load_run(run)
    with pytest.raises(UserError, match="run of pretrain_mae.py"):
        config_lib.from_json(run / "config.json")
    assert load_mae_run(run, ema="raw")[2]["ema"] == "raw"
    with pytest.raises(UserError, match="0.9"):
        load_mae_run(run, ema="0.5")


@pytest.mark.slow
def test_latents_are_trained_on_as_they_are(tmp_path):
    """Float samples of four channels: cropped, rebuilt, drawn in false colours."""
    latents = np.random.default_rng(0).normal(size=(1, 24, 8, 8, 8)).astype(np.float16)
    folder = tmp_path / "latents"
    folder.mkdir()
    np.save(folder / "latents.npy", latents)
    np.save(folder / "labels.npy", np.arange(24, dtype=np.int32) % 3)
    (folder / "meta.json").write_text(
        json.dumps(
            {
                "images": {"dataset": "digits", "data": {}, "split": "train"},
                "flips": 1,
                "class_names": ["a", "b", "c"],
                "shape": [8, 8, 4],
                "moments": True,
            }
        )
    )
    (folder / "done.json").write_text(json.dumps({"samples": 24}))
    rows = train(
        tmp_path / "run",
        {
            "dataset_name": f"latents:{folder}",
            "max_steps": 2,
            "mae.finetune_steps": 1,
            "batch_size": 8,
            "sample_interval": 2,
            "eval_interval": 2,
        },
    )
    assert (
        np.isfinite(rows[-1]["held_out_loss_rec"])
        and (tmp_path / "run" / "samples" / "step_00000002.png").exists()
    )
    encode, params, _ = load_encoder(f"mae:{tmp_path / 'run'}")
    assert jax.eval_shape(encode, params, jnp.zeros((1, 8, 8, 4)))["norm_x"].shape == (1, 1, 4)


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize("name", config_lib.recipes("configs.mae"))
def test_recipes_resolve(name):
    module = importlib.import_module(f"configs.mae.{name}")
    for heading in ("Command", "Hardware", "Time", "Expected", "Measured"):
        assert f"\n{heading} " in module.__doc__, f"the header of {name} lacks {heading}"
    config = config_lib.flatten(config_lib.resolve({"recipe": name}, schema=MAE_TRAINER))
    assert module.OVERRIDES.items() <= config.items()


def call(*words):
    flag_values = config_lib.define_flags(
        extra=OF_TRAINERS, flag_values=flags.FlagValues(), schema=MAE_TRAINER
    )
    mae.main(config_lib.parse(["pretrain_mae.py", *(str(w) for w in words)], flag_values))


def test_dry_run(capsys, tmp_path):
    call(
        "--dataset_name",
        "digits",
        "--save_dir",
        tmp_path / "run",
        "--dry_run",
        "--mae.base_channels",
        "24",
    )
    out = capsys.readouterr().out
    assert (
        "mae.base_channels" in out
        and "parameters" in out
        and "command line" in out
        and not (tmp_path / "run").exists()
    )


ONE_LINE = [
    (["--mae.layers", "3,4,6"], "3,4,6,3"),
    (["--mae.layers", "1,0,1,1"], "four stages"),
    (["--drift.n_neg", "4"], "drift.n_neg"),
    (["--mae.patch_size", "3"], "8x8"),
    (["--mae.finetune_steps", "99"], "max_steps"),
    (["--batch_size", "15", "--mesh.devices", "2"], "16"),
    (["--recipe", "cifar"], "cifar10"),
    (["--data.label_column", "none", "--dataset_name", "folder:FOLDER"], "finetune_steps 0"),
    (["--load_dir", "nowhere"], "nowhere"),
]


@pytest.mark.parametrize("words, text", ONE_LINE, ids=[w[0][2:] for w, _ in ONE_LINE])
def test_a_mistake_is_one_line(words, text, tmp_path):
    for i in range(4):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
    given = as_flags({name: value for name, value in TINY.items() if name != "recipe"})
    with pytest.raises(UserError) as error:
        call(
            *given,
            "--save_dir",
            tmp_path / "run",
            *(w.replace("FOLDER", str(tmp_path)) for w in words),
        )
    assert (
        "\n" not in str(error.value)
        and text in str(error.value)
        and not (tmp_path / "run" / "checkpoints").exists()
    )


def test_another_network_in_the_folder_is_refused(run):
    with pytest.raises(UserError, match="mae.base_channels = 16, but mae.base_channels = 7"):
        train(run, {"mae.base_channels": 7})
