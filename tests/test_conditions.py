"""Conditions in the place of classes: their data, their groups, and a tiny run of them."""

import dataclasses

import jax
import numpy as np
import pytest
from absl.flags import FlagValues
from conftest import share_steps
from test_bank import config
from test_train import DIT, STREAM, TINY, records, refusal, same_bits

import data
from data import pipeline
from data.identity import identity
from drifting import bank as banks
from drifting.conditions import one_joint_group
from drifting.loss import drift_loss
from drifting.step import feature_loss
from evaluation import sample_command
from evaluation.conditions import nearest, spread
from evaluation.fid_csv import read_rows
from evaluation.flags import define_sampling_flags
from evaluation.labels import labels_of_samples
from evaluation.load_reference import load_reference
from models.build import build_generator
from models.conditioning import Conditioning
from models.runs import load_run
from models.sampling import generate
from models.weights import save_generator
from training import doctor, drift, own_data
from training.fill_bank import fill_bank
from training.resolve_sizes import resolve_sizes
from training.resolve_start import check_weights
from utils import config as config_lib
from utils import sharding
from utils.errors import UserError

WIDTH, N_POS, N_C = 3, 4, 5
COLUMN = {"condition_column": "text"}
JOINT = {"drift.joint": 1.0, "drift.n_unc": 0, "drift.alpha_max": 1.0}
JOINED = ("kernel", "uncoupled", "sinkhorn", "mmd")  # fields that take it


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The folder of a set: digits and their conditions, train.npz and test.npz."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = pipeline.everything(data.load("digits"))
    noise = np.random.default_rng(0).normal(size=(len(labels), 10))
    text = (np.eye(10)[labels] + 0.1 * noise).astype(np.float32)
    for split, chosen in (("train", slice(0, 96)), ("test", slice(96, 136))):
        arrays = {"images": images[chosen], "labels": labels[chosen], "text": text[chosen]}
        np.savez(folder / f"{split}.npz", **arrays)
    return folder


# ---------------------------------------------------------------- the groups


def bank_of_conditions(size, held, host=False):
    """A bank of `size` slots, of which `held` hold samples 0, 1, ..., and their conditions."""
    shape = jax.ShapeDtypeStruct((1,), np.uint8)
    bank = banks.empty_bank(1, size, 0, shape, WIDTH)
    random = np.random.default_rng(0)
    conditions = np.repeat(random.normal(size=(held // 2, WIDTH)), 2, 0).astype(np.float32)
    images = np.arange(held, dtype=np.uint8)[:, None]
    if not host:
        return jax.device_get(jax.jit(banks.push)(bank, images, conditions)), conditions
    classes = np.zeros(held, np.int32)
    slots = jax.device_get(banks.push_slots(bank.counters, bank.sizes, classes))
    return banks.push_host(bank, slots, images, conditions), conditions


def test_positives_have_the_nearest_conditions():
    """By a loop over all samples, of which each two have the same condition."""
    bank, conditions = bank_of_conditions(size=40, held=30)
    same_bits(bank, bank_of_conditions(size=40, held=30, host=True)[0])
    c = config(n_classes=1, n_c=N_C, n_pos=N_POS + 1, n_unc=2, class_dropout_prob=0.3)

    @jax.jit
    def draw(bank, step):
        known = bank.conditions
        plan = banks.draw(bank.counters, bank.sizes, np.uint32(0), step, c, known)
        return plan, banks.batch_from_plan(bank, plan)

    nulls, last = 0, set()
    for step in range(12):
        plan, batch = jax.device_get(draw(bank, step))
        same_bits(batch, banks.batch_from_plan(bank, plan))  # as in host memory
        assert len(set(plan.anchors)) == N_C and plan.anchors.max() < 30
        for anchor, label, pos in zip(plan.anchors, batch.labels, batch.pos[..., 0], strict=True):
            if np.isnan(label).all():
                nulls += 1
                continue
            np.testing.assert_array_equal(label, conditions[anchor])
            apart = np.linalg.norm(conditions - label, axis=1)
            # Of the last pair, whose distances are equal, one is left out: by lot.
            assert pos[0] == anchor and len(set(pos)) == N_POS + 1
            np.testing.assert_array_equal(apart[pos], np.sort(apart)[: N_POS + 1])
            last.add(pos[-1] % 2)
    assert 0 < nulls < 12 * N_C and last == {0, 1}


def test_a_queue_that_is_not_full():
    bank, _ = bank_of_conditions(size=40, held=6)
    c = config(n_classes=1, n_c=6, n_pos=8, n_unc=2)

    @jax.jit
    def draw(bank):
        known = bank.conditions
        plan = banks.draw(bank.counters, bank.sizes, np.uint32(0), 0, c, known)
        return plan.anchors, banks.batch_from_plan(bank, plan)

    anchors, batch = jax.device_get(draw(bank))
    assert sorted(anchors.tolist()) == list(range(6))
    assert batch.weight_pos.tolist() == [[1] * 6 + [0] * 2] * 6
    assert sorted(batch.pos[0, :6, 0].tolist()) == list(range(6))


def test_the_joint_is_one_problem_of_features_and_conditions():
    """Three anchors with two samples each: one problem of six samples and three reals.

    It is so in each field that takes it.
    """
    random = np.random.default_rng(1)
    gen, real, second = (random.normal(size=(n, 2, 4)).astype(np.float32) for n in (6, 3, 6))
    conditions = random.normal(size=(3, WIDTH)).astype(np.float32)
    of_gen = np.repeat(conditions, 2, 0)
    weights = np.ones((3, 1)), np.zeros((3, 0))
    (joined, none, other), packed, (of_pos, of_unc) = one_joint_group(
        [{"set": gen}, None, {"set": second}], {"4": real}, weights, of_gen, conditions, 0.5
    )
    assert none is None and of_pos.shape == (1, 3) and of_unc.shape == (1, 0)
    reals = packed[str(4 + WIDTH)]

    def rms_distance(vectors):
        return np.sqrt(np.mean(np.sum((vectors[:, None] - vectors) ** 2, -1)))

    apart = np.sqrt(np.mean([rms_distance(real[:, t]) ** 2 for t in range(2)]))
    unit = 0.5 * apart / rms_distance(conditions)
    for vectors, features, of_each in (
        (joined["set"], gen, of_gen),
        (other["set"], second, of_gen),
        (reals, real, conditions),
    ):
        expected = np.broadcast_to(unit * of_each[:, None], (len(features), 2, WIDTH))
        np.testing.assert_allclose(vectors, np.concatenate([features, expected], 2), rtol=1e-5)

    # The loss of the step is that of one problem for each location.
    sizes = {"n_c": 3, "n_neg": 2, "n_pos": 1, "n_unc": 0, "joint": 0.5}
    by_location = [vectors.swapaxes(0, 1) for vectors in (joined["set"], reals)]

    @jax.jit
    def losses_of_both():
        found = {}
        for field in JOINED:
            c = config(**sizes, field=field)
            loss, _ = feature_loss(joined, packed, of_pos, of_unc, c)
            of_locations, _ = drift_loss(*by_location, temperatures=c.temperatures, field=field)
            found[field] = loss, of_locations.mean()
        return found

    for field, (loss, expected) in losses_of_both().items():
        assert loss > 0
        np.testing.assert_allclose(loss, expected, rtol=1e-5, err_msg=field)


def test_conditions_that_are_all_equal_have_a_joint():
    reals = {"4": np.ones((3, 2, 4), np.float32)}
    one = np.ones((3, WIDTH), np.float32)
    weights = np.ones((3, 1)), np.zeros((3, 0))
    (joined,), packed, _ = one_joint_group([{"set": reals["4"]}], reals, weights, one, one, 1.0)
    assert np.isfinite(joined["set"]).all() and np.isfinite(packed[str(4 + WIDTH)]).all()


def test_conditions_to_sample_from():
    conditions = np.array([[3.0], [0.0], [1.0], [5.0], [4.0]])
    assert nearest(conditions, np.array([0.9]), 2).tolist() == [2, 1]
    assert spread(conditions, 3).tolist() == [[3], [1], [4]]
    assert spread(conditions, 9) is conditions


def test_conditions_count_from_the_start_in_any_unit():
    module = Conditioning(64, 1, 0, 1, False, condition_width=WIDTH)
    for unit in (0.1, 1e4):
        vectors = unit * jax.random.normal(jax.random.key(0), (8, WIDTH))
        inputs = vectors, np.ones(8, np.float32), np.zeros((8, 1), np.int32)
        cond, _ = module.init_with_output(jax.random.key(1), *inputs)
        np.testing.assert_allclose((cond**2).mean(1), 1, rtol=0.1)  # with a little of alpha


# ---------------------------------------------------------------- the data


def test_npz_and_parquet_are_the_same(digits, tmp_path):
    import datasets

    arrays = np.load(digits / "test.npz")
    table = {"img": arrays["images"][..., 0].tolist(), "text": arrays["text"].tolist()}
    datasets.Dataset.from_dict(table).to_parquet(tmp_path / "x.parquet")
    for name, split in ((f"npz:{digits}", "test"), (f"hf:{tmp_path / 'x.parquet'}", "train")):
        dataset = data.load(name, split, COLUMN)
        assert dataset.condition_width == 10 and dataset.n_classes == 1
        images, conditions = pipeline.everything(dataset)
        np.testing.assert_array_equal(images, arrays["images"])
        np.testing.assert_array_equal(conditions, arrays["text"])
    images, conditions = next(pipeline.stream(dataset, 0, 8))
    for image, condition in zip(images, conditions, strict=True):
        (found,) = np.flatnonzero((arrays["images"] == image).all((1, 2, 3)))
        np.testing.assert_array_equal(condition, arrays["text"][found])

    others = dataclasses.replace(dataset, conditions=dataset.conditions + 1)
    assert identity(others)["crc32"] != identity(dataset)["crc32"]

    of_classes = data.load(f"npz:{digits}", "test")
    labels = pipeline.everything(of_classes)[1]
    np.testing.assert_array_equal(labels, arrays["labels"])
    assert of_classes.n_classes == 10 and of_classes.counts == tuple(np.bincount(labels).tolist())


def test_wrong_arrays(tmp_path):
    images = np.zeros((4, 8, 8), np.uint8)
    text = np.ones((4, 2), np.float32)
    broken = np.where(np.arange(4)[:, None] == 2, np.inf, text)
    for arrays, words in (
        ({"images": images}, "no array 'text' (it has images)"),
        ({"images": images, "text": text[:3]}, "4 images and 3 of 'text'"),
        ({"images": images, "text": text[:, 0]}, "float32 [4], expected a vector"),
        ({"images": images, "text": text[0, 0]}, "float32 [], expected one condition for each"),
        ({"images": images, "text": broken}, "1 of 4 samples, number 2 first"),
        ({"images": images, "text": 1e16 * text}, "beyond 1e+15, in 4 of 4 samples"),
        ({"images": images / 255, "text": text}, "expected uint8 images"),
        ({"text": text}, "no array of images among text in x.npz"),
    ):
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(UserError) as error:
            data.load(f"npz:{tmp_path / 'x.npz'}", "train", COLUMN)
        assert words in str(error.value) and "\n" not in str(error.value)

    np.savez(tmp_path / "x.npz", images=images, labels=np.eye(4, dtype=int))
    with pytest.raises(UserError, match=r"int64 \[4, 4\], expected one label for each sample"):
        data.load(f"npz:{tmp_path / 'x.npz'}")


@pytest.mark.parametrize(
    "given, words",
    [
        ({"dataset_name": "digits", "drift.n_pos": "all"}, "digits has no columns of vectors"),
        ({"data.label_column": "labels"}, "leave one of the two out"),
        ({"drift.n_pos": "all"}, "give a number, such as 32"),
        ({"drift.class_sampling": "frequency"}, "draws classes; leave it out"),
        ({"drift.field": "frechet", "drift.alpha_max": 1.0}, "keeps moments of classes"),
        ({"objective": "flow", "model.noise_classes": 0}, "give --objective=drift"),
        (JOINT | {"drift.n_unc": 4, "drift.alpha_max": 3.0}, "give --drift.n_unc 0 --drift.alpha"),
        (JOINT | {"model.class_dropout_prob": 0.1}, "give --model.class_dropout_prob 0"),
        (JOINT | {"optim.accumulate": 2}, "give --optim.accumulate 1"),
        (JOINT | {"drift.field": "learned"}, f"give --drift.field {', '.join(JOINED[:3])} or mmd"),
        (JOINT | {"drift.field": "frechet"}, "keeps moments of classes; give another field"),
        (JOINT | {"drift.field": "mmd", "drift.landmarks": 8}, "are of classes; give 0"),
        (JOINT | {"drift.temperatures": "learned"}, "give numbers, such as --drift.temperatures"),
        (JOINT | {"drift.n_pos": 4}, "n_pos=4: with --drift.joint=1 the positives of a step are"),
        (JOINT | {"data.condition_column": ""}, "has none of; give --data"),
        ({"drift.n_pos": 96}, "out of 96 in the bank; give less, or more images"),
        ({"drift.bank_per_class": 6}, "out of 6 in the bank; give less, or --drift.bank_per_class"),
    ],
)
def test_what_does_not_fit_is_refused(digits, tmp_path, given, words):
    settings = SETTINGS | of_set(digits, tmp_path) | given
    if "drift.joint" in given and "drift.n_pos" not in given:
        del settings["drift.n_pos"]  # that of the recipe is no mistake beside the joint
    assert words in refusal(settings.items())


def test_own_data_chooses_groups(digits):
    given = {"dataset_name": f"npz:{digits}", "data.condition_column": "text"}
    settings = own_data.merged(own_data.choose(given))
    assert settings["drift.bank_per_class"] == "all" and settings["drift.n_pos"] == 32
    assert settings["batch_size"] == 16 * settings["drift.n_neg"]
    for flag, bank, n_pos in (("n_pos", "all", 16), ("bank_per_class", 16, 8)):
        settings = own_data.merged(own_data.choose(given | {f"drift.{flag}": 16}))
        assert (settings["drift.bank_per_class"], settings["drift.n_pos"]) == (bank, n_pos)


def test_own_data_chooses_many_conditions_for_a_joint(digits):
    given = {"dataset_name": f"npz:{digits}", "data.condition_column": "text", "drift.joint": 1.0}
    for more, n_c, n_neg in (
        ({}, 96, 2),  # all
        ({"drift.n_neg": 4}, 80, 4),
        ({"batch_size": 64}, 32, 2),
        ({"drift.bank_per_class": 28}, 24, 2),  # a multiple of eight devices
    ):
        settings = own_data.merged(own_data.choose(given | more))
        assert (settings["batch_size"], settings["drift.n_neg"]) == (n_c * n_neg, n_neg)
        config = config_lib.resolve(settings | given | more)
        dataset = data.load(config.dataset_name, "train", config.data)
        sizes = resolve_sizes(config, dataset, sharding.make_mesh(8, 1))
        assert (sizes.n_c, sizes.n_pos) == (n_c, 1)


def test_own_data_of_three_images(digits, tmp_path):
    """They are few, but what is chosen for them goes."""
    arrays = np.load(digits / "test.npz")
    np.savez(tmp_path / "x.npz", images=arrays["images"][:3], text=arrays["text"][:3])
    given = {"dataset_name": f"npz:{tmp_path / 'x.npz'}", "data.condition_column": "text"}
    config = config_lib.resolve(own_data.merged(own_data.choose(given)) | given)
    dataset = data.load(config.dataset_name, "train", config.data)
    sizes = resolve_sizes(config, dataset, sharding.make_mesh(1, 1))
    assert (sizes.n_c, sizes.n_pos) == (3, 2)


# ---------------------------------------------------------------- a run

SETTINGS = TINY | {
    "recipe": "digits",
    "model.depth": 1,
    "drift.n_pos": 6,
    "drift.bank_per_class": "all",
    "max_steps": 8,
}
# The bank is renewed on the way: it is smaller than the data.
RENEWED = STREAM | {
    "drift.bank_per_class": 40,
    "model.class_dropout_prob": 0.1,
    "model.output_init": "data",
}


def of_set(folder, save_dir):
    return {
        "dataset_name": f"npz:{folder}",
        "data.condition_column": "text",
        "save_dir": str(save_dir),
    }


def parts_of(digits, folder, changes=(), devices=1):
    given = SETTINGS | RENEWED | of_set(digits, folder) | {"mesh.devices": devices}
    config = config_lib.resolve(given | dict(changes))
    dataset = data.load(config.dataset_name, "train", config.data)
    return drift.build(config, dataset, sharding.make_mesh(devices, 1))


def train(digits, folder, changes=(), devices=1):
    parts = parts_of(digits, folder, changes, devices)
    drift.train(parts, drift.open_run(parts.config))
    return records(folder)


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "alone"
    with pytest.MonkeyPatch.context() as patch:
        share_steps(patch)
        train(digits, folder, {"eval_interval": 8, "sample_interval": 8})
    return folder


@pytest.mark.usefixtures("shared_steps")
def test_a_run_that_moves_has_the_same_losses(digits, run, tmp_path):
    """From two devices, with the bank on the host, by its checkpoint, to one that holds it."""
    train(digits, tmp_path, {"max_steps": 4, "drift.bank_placement": "host"}, devices=2)
    moved, alone = train(digits, tmp_path), records(run)
    assert [record["step"] for record in moved] == list(range(1, 9))
    for key in ("loss", "drift_rms_0.02", "grad_norm"):
        values = [[record[key] for record in of_run] for of_run in (moved, alone)]
        np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-6, err_msg=key)


def test_a_joint_on_two_devices_has_the_losses_of_one(digits, tmp_path, caplog):
    """The two divide the bank. And the doctor sees the group as it is trained.

    A bank of fewer reals than --drift.n_pos will do. The run may go on without the joint, and says
    so, as with another field.
    """
    small = {"model.output_init": "random", "model.class_dropout_prob": 0.0, "drift.n_pos": 64}
    changes = JOINT | small | {"drift.negatives": "second", "drift.n_neg": 2, "max_steps": 4}
    one = train(digits, tmp_path / "one", changes)
    divided = changes | {"drift.bank_placement": "divided"}
    two = train(digits, tmp_path / "two", divided, devices=2)
    for key in ("loss", "drift_rms_0.02", "energy_distance", "grad_norm"):
        values = [[record[key] for record in of_run] for of_run in (one, two)]
        np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-6, err_msg=key)
    (of_set,) = doctor.look(doctor.restore(tmp_path / "one"))
    assert of_set.gen.shape == (1, 32, 64 + 10) and of_set.pos.shape == (1, 16, 64 + 10)
    without = changes | {"drift.joint": 0.0, "drift.n_pos": 6}
    drift.open_run(parts_of(digits, tmp_path / "one", without).config)
    assert "drift.joint was 1.0 and is now 0.0" in caplog.text


def test_a_run_keeps_its_conditions(digits, run):
    """The bank is full of them at the start, and another column is another run."""
    parts = parts_of(digits, run)
    assert fill_bank(parts)[0].counters.filled == [40]
    parts.config.data.condition_column = "labels"
    with pytest.raises(UserError, match="data.condition_column = text, but"):
        drift.open_run(parts.config)


def sample(**given):
    words = [f"--{name}={value}" for name, value in given.items()]
    values = define_sampling_flags(FlagValues())
    sample_command.main(config_lib.parse(["sample.py", *words], values))


def test_samples_and_scores(digits, run, tmp_path):
    (row,) = read_rows(run / "fid.csv")
    assert row["labels"] == "reference" and row["num_samples"] == 40
    assert (run / "samples" / "step_00000008.png").exists() and (run / "report.html").exists()

    # As many conditions as the bank holds, of its own, out of the checkpoint.
    sample(load_dir=run, num_samples=40, out=tmp_path / "own.npz")
    given = np.load(tmp_path / "own.npz")["arr_1"]
    known = np.load(digits / "train.npz")["text"]
    assert given.shape == (40, 10) and all((known == vector).all(1).any() for vector in given)

    np.save(tmp_path / "two.npy", known[:2])
    sample(load_dir=run, conditions=tmp_path / "two.npy", num_samples=3, out=tmp_path / "x.npz")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npz")["arr_1"], known[[0, 1, 0]])
    sample(load_dir=run, classes="0,10", per_class=2, compare=True, out=tmp_path / "x.png")

    model, params, _ = load_run(run)
    vectors = np.stack([known[0], known[1], np.full(10, np.nan)])
    apart = next(generate(model, params, vectors, 1.0, 0))
    same = next(generate(model, params, vectors[[1, 1, 1]], 1.0, 0))
    np.testing.assert_array_equal(apart[1], same[1])
    zeros = next(generate(model, params, np.zeros((3, 10)), 1.0, 0))
    assert np.isfinite(apart).all() and (apart[0] != same[0]).any()
    assert (apart[2] != zeros[2]).any()  # no condition is another one than zeros

    reference = load_reference(f"npz:{digits}", data_options=COLUMN)
    of_test = np.load(digits / "test.npz")["text"]
    np.testing.assert_array_equal(labels_of_samples(model, "reference", reference, 40), of_test)

    np.save(tmp_path / "wide.npy", np.ones((2, 9)))
    with pytest.raises(UserError, match=r"takes conditions \[S, 10\]"):
        sample(load_dir=run, conditions=tmp_path / "wide.npy")
    np.save(tmp_path / "large.npy", np.full(10, 1e16))
    with pytest.raises(UserError, match=r"beyond 1e\+15; mend or scale them"):
        sample(load_dir=run, conditions=tmp_path / "large.npy")
    with pytest.raises(UserError, match="does not exist; give an .npy file"):
        sample(load_dir=run, conditions=tmp_path / "none.npy")
    with pytest.raises(UserError, match="no place for the conditions"):
        dit = build_generator(config_lib.resolve(TINY | DIT).model, (8, 8, 1), 1, WIDTH)
        save_generator(tmp_path / "artifact", dit, {}, {})
    with pytest.raises(UserError, match="--labels uniform: the generator takes conditions"):
        labels_of_samples(model, "uniform", load_reference("digits"), 4)
    other = config_lib.resolve(SETTINGS | {"dataset_name": "digits", "init_from": str(run)})
    with pytest.raises(UserError, match="they take conditions of 10 numbers: give"):
        check_weights(drift.build(other, data.load("digits"), sharding.make_mesh(1, 1)))
