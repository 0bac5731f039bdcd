"""Features of reals kept in the bank.

The same training as with features computed in each step. Real digits, a real (small) encoder.
"""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from test_train import (
    STACKED,
    STREAM,
    collectives,
    everything_saved,
    parts_of,
    records,
    same_bits,
    train,
)
from weight_rule import draw_flax, tiny_mae

from drifting import cache
from drifting.images import mirror, to_float
from models.encoders.mae import save_mae
from models.mae import mae_shapes
from training import drift
from training.resolve_encoder import Encoder, resolve_monitor
from utils import sharding
from utils.errors import UserError


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Flags of an MAE with drawn weights, for digits."""
    model = tiny_mae()
    params = {
        path: draw_flax("/".join(path), leaf.shape, 0)
        for path, leaf in flatten_dict(mae_shapes(model)).items()
    }
    folder = tmp_path_factory.mktemp("mae")
    save_mae(folder, model, unflatten_dict(params), {})
    return {
        "model.name": "mlp",
        "encoder.name": "mae",
        "encoder.path": str(folder),
        "encoder.layers": "conv1",
        "encoder.statistics": "map,mean",
        "encoder.patch_sizes": "none",
        "data.flip": True,
        "drift.n_unc": 4,
        "drift.alpha_max": 3.0,
        "max_steps": 6,
        "save_interval": 3,
    }


def test_a_view_of_each_image_is_recalled():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 1), np.uint8)

    def encode(x):
        return {"rows": x.sum((2, 3))[..., None] + x[:, :, 0, 0, None]}

    kept = jax.vmap(lambda x: cache.remember(x, encode=encode, flip=True))(images)
    mirrored = np.array([[0, 1, 1], [1, 0, 1]], bool)
    expected = encode(mirror(to_float(images), mirrored).reshape(6, 4, 4, 1))
    np.testing.assert_allclose(cache.recall(kept, mirrored)["1"], expected["rows"], atol=1e-5)


WHOLE = {"drift.n_pos": "all", "drift.bank_per_class": "all"}


@pytest.mark.parametrize(
    "bank", [pytest.param(WHOLE, marks=pytest.mark.slow), STREAM], ids=["whole bank", "stream"]
)
def test_cached_features_give_the_same_losses(tmp_path, encoder, bank):
    """To float32 rounding."""
    off, on = (
        train(tmp_path / cache, encoder | bank | {"encoder.cache": cache, "max_steps": 4})
        for cache in ("off", "on")
    )
    for a, b in zip(off, on, strict=True):
        for key in ("loss", "drift_rms_0.02", "energy_distance", "feature_scale", "perplexity"):
            np.testing.assert_allclose(
                b[key], a[key], rtol=2e-4, err_msg=f"{key} of step {a['step']}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("bank", [WHOLE, STREAM], ids=["whole bank", "stream"])
def test_interrupted_run_ends_in_the_same_bits(tmp_path, encoder, bank):
    flags = encoder | bank | {"encoder.cache": "on"}
    straight = train(tmp_path / "straight", flags)
    for until in (3, 6):
        train(tmp_path / "resumed", flags | {"max_steps": until})
    assert records(tmp_path / "resumed") == straight
    same_bits(*(everything_saved(tmp_path / name, flags)[0] for name in ("straight", "resumed")))


@pytest.mark.slow
@pytest.mark.parametrize("bank", [WHOLE, STREAM], ids=["whole bank", "stream"])
def test_one_program_that_donates_and_moves_no_features(encoder, bank):
    """As tests/test_train.py asks of the step without kept features.

    On 8 devices, no collective carries features, and state and bank are donated to the one
    program.
    """
    changes = STACKED | {"model.name": "dit", "encoder.cache": "on"}
    parts = parts_of(encoder | bank | changes, devices=8)
    state, everywhere = drift.make_state(parts), sharding.replicated(parts.mesh)
    kept, frozen = (
        drift.put_bank(parts, drift.fill_bank(parts)[0]),
        jax.device_put(parts.encoder_params, everywhere),
    )
    fresh = (
        None
        if parts.whole_bank
        else jax.device_put((np.zeros((8, 8, 8, 1), np.uint8), np.zeros(8, np.int32)), everywhere)
    )

    def wide(shape):
        return tuple(sorted(n for n in shape if n != 1))

    shapes = {
        wide(shape)
        for leaf in jax.tree.leaves(state.params)
        for shape in (leaf.shape, leaf.shape[1:])
    }  # of all layers, and of one
    step = drift.make_step(parts)
    for operation, moved in collectives(step.lower(state, kept, fresh, frozen).compile().as_text()):
        for shape in moved:
            assert wide(shape) in shapes or np.prod(shape) <= 64, f"{operation} of {shape}"
    for _ in range(2):
        old = [a for a in jax.tree.leaves((state, kept)) if a.size]
        state, kept, metrics = step(state, kept, fresh, frozen)
        assert all(a.is_deleted() for a in old) and np.isfinite(float(metrics["loss"]))
    assert step._cache_size() == 1


def test_cache_is_chosen_by_what_it_saves(encoder):
    def choice(**changes):
        return parts_of(
            encoder | STREAM | {k.replace("__", "."): v for k, v in changes.items()}
        ).config.encoder.cache

    assert choice() == "on"
    assert (
        choice(encoder__cache_budget_gb=1e-4) == "off"
    )  # 10 x 16 + 40 samples, 2 views of 64 x 8 + 8 numbers: 0.8 MB
    assert (
        choice(drift__bank_push=48) == "off"
    )  # 48 new images in two views, and 8 classes x 12 reals
    assert choice(encoder__cache="off") == "off"
    assert (
        choice(
            encoder__name="none",
            encoder__path="",
            encoder__layers="",
            encoder__statistics="",
            encoder__patch_sizes="",
        )
        == "off"
    )
    with pytest.raises(UserError, match="raw samples"):
        choice(
            encoder__name="none",
            encoder__path="",
            encoder__layers="",
            encoder__statistics="",
            encoder__patch_sizes="",
            encoder__cache="on",
        )
    with pytest.raises(UserError, match="bank_placement host"):
        choice(encoder__cache="on", drift__bank_placement="host")
    parts = parts_of(encoder | STREAM)
    assert not parts.bank_on_host and parts.bank_bytes == 200 * 2 * 4 * (64 * 8 + 8)


def test_what_is_watched_is_no_spread(encoder):
    """Of a map of one location the spreads are the same for all images."""
    assert (
        parts_of(encoder | STREAM | {"encoder.statistics": "mean,std"}).drift.monitor
        == "conv1_mean"
    )


def test_what_is_watched_is_the_last_set_of_the_encoder():
    """Not the last in the alphabet, as JAX returns it."""

    def encode(params, images):
        vector = images.mean((1, 2))[:, None]
        names = ("norm_x", "layer9_mean", "layer10_mean", "layer10_std")
        return {name: vector for name in names} | {"map": images[:, 0]}

    encoder = Encoder(encode, {})
    assert resolve_monitor("", encoder, (4, 4, 3)) == "layer10_mean"
    assert resolve_monitor("norm_x", encoder, (4, 4, 3)) == "norm_x"
    with pytest.raises(UserError, match="this encoder has norm_x, layer9_mean"):
        resolve_monitor("map", encoder, (4, 4, 3))


@pytest.mark.slow
def test_features_in_host_memory_give_the_same_run(tmp_path, encoder):
    whole = encoder | {"drift.n_pos": 8, "drift.bank_per_class": "all", "encoder.cache": "on"}
    device, host = (
        train(tmp_path / where, whole | {"drift.bank_placement": where})
        for where in ("device", "host")
    )
    for a, b in zip(device, host, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("bank", [WHOLE, STREAM], ids=["whole bank", "stream"])
def test_devices_do_not_change_the_losses(tmp_path, encoder, bank):
    flags = encoder | bank | {"encoder.cache": "on", "drift.bank_placement": "divided"}
    one, eight = (train(tmp_path / str(n), flags, devices=n) for n in (1, 8))
    for a, b in zip(one, eight, strict=True):
        np.testing.assert_allclose(b["loss"], a["loss"], rtol=1e-4)


def test_features_in_a_checkpoint(encoder):
    """Those of a stream are there, those of a whole data set are not.

    It is there to be encoded again.
    """

    def held(bank):
        return drift.checkpoint_shapes(parts_of(encoder | bank | {"encoder.cache": "on"}))["bank"]

    assert {d: a.shape[2:] for d, a in held(STREAM)["images"].items()} == {
        "8": (2, 64 + 1, 8)
    }  # both views of both sets
    assert "images" not in held(WHOLE)
