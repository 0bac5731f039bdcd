"""The configuration: precedence, strictness, spellings, config.json, one-line errors."""

import dataclasses
import functools
import importlib
import itertools
import json
import logging
import subprocess
import sys

import pytest
from absl import flags
from conftest import ROOT

import configs
from configs import digits
from configs.default import TABLE, Key
from configs.presets import PRESETS
from utils import config as config_lib
from utils.errors import UserError

PLAIN = {"recipe": "none"}  # the defaults alone


def parse(*words, groups=None, extra=()):
    """The flags of a fresh program, given these words."""
    flag_values = config_lib.define_flags(groups, extra, flags.FlagValues())
    return config_lib.parse(["program", *words], flag_values)


def resolve(*words):
    return config_lib.resolve(parse(*words))


def error_of(call, *args):
    """Returns the message of the UserError that the call ends with, which is one line."""
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def recipe_folder(tmp_path, monkeypatch):
    """Returns a function that adds a recipe file to configs/, seen for one test."""
    monkeypatch.setattr(configs, "__path__", [*configs.__path__, str(tmp_path)])

    def add(name, overrides):
        (tmp_path / f"{name}.py").write_text(f"OVERRIDES = {overrides!r}\n")
        monkeypatch.delitem(sys.modules, f"configs.{name}", raising=False)
        importlib.invalidate_caches()

    return add


# ---------------------------------------------------------------- precedence


def fits_anything(config):
    """The check of `UNCHECKED`, by which each key can be tried alone."""


UNCHECKED = dataclasses.replace(config_lib.TRAINER, check=fits_anything)


def two_values(key):
    """Returns two different values that the key accepts, the second not the default."""
    if isinstance(key.default, bool):
        return key.default, not key.default
    if isinstance(key.default, str):
        choices = key.accepts or ("one", "other")
        second = [choice for choice in choices if choice != key.default][-1]
        return next(choice for choice in choices if choice != second), second
    if isinstance(key.default, tuple):
        return (0.5,), (0.25, 0.75)
    if isinstance(key.default, int):
        return 5, 6
    return (3.5, 2.5) if key.accepts.startswith("[1") else (0.6, 0.7)


LEVELS = ("default", "recipe", "preset", "command line")


@pytest.mark.parametrize(("low", "high"), list(itertools.combinations(LEVELS, 2)))
def test_precedence_per_key(low, high, recipe_folder, monkeypatch):
    checked = 0
    for key in TABLE:
        if key.name in ("recipe", "objective", "model.preset"):
            continue
        if "preset" in (low, high) and not key.name.startswith("model."):
            continue
        first, second = two_values(key)
        first = key.default if low == "default" else first
        assert first != second, key
        values = {low: first, high: second}
        recipe_folder("trial", {key.name: values["recipe"]} if "recipe" in values else {})
        monkeypatch.setitem(
            PRESETS, "trial", {key.name: values["preset"]} if "preset" in values else {}
        )
        given = {"recipe": "trial", "model.preset": "trial"}
        if "command line" in values:
            given[key.name] = values["command line"]
        resolved = config_lib.flatten(config_lib.resolve(given, schema=UNCHECKED))
        assert resolved[key.name] == second, key
        if low == "default":
            others = [other for other in TABLE if other.name not in (key.name, *given)]
            assert all(resolved[other.name] == other.default for other in others)
        checked += 1
    model_keys = [key for key in TABLE if key.name.startswith("model.")]
    if "preset" in (low, high):
        assert checked == len(model_keys) - 1  # but for model.preset
    else:
        assert checked == len(TABLE) - 3


def test_objective_goes_over_the_recipe_and_under_flags(recipe_folder):
    pixels = {"model.clip_output": True, "model.clip_margin": 1.0}
    recipe_folder("trial", pixels | {"model.noise_classes": 8, "model.class_dropout_prob": 0.3})
    given = {"recipe": "trial", "objective": "flow"}
    flow = config_lib.resolve(given)
    assert (flow.model.noise_classes, flow.model.class_dropout_prob) == (0, 0.1)
    assert (flow.model.clip_output, flow.model.clip_margin) == (False, 0)
    without_dropout = config_lib.resolve(given | {"model.class_dropout_prob": 0.0})
    assert without_dropout.model.class_dropout_prob == 0
    assert config_lib.resolve({"recipe": "trial"}).model.noise_classes == 8
    saved = config_lib.resolve(given | {"model.class_dropout_prob": 0.2})
    assert config_lib.resolve({"objective": "flow"}, saved).model.class_dropout_prob == 0.2, (
        "a run goes on with its own settings"
    )


def test_flags_that_the_objective_has_no_use_for_are_refused():
    def check(*words):
        config_lib.check_use(resolve(*words), parse(*words))

    check("--objective=flow", "--denoise_timesteps=4", "--drift.bank_per_class=all")
    check("--drift.field=sinkhorn", "--stop_on_collapse")
    assert error_of(
        check, "--objective=flow", "--drift.n_pos=8", "--drift.field=kernel"
    ).startswith("--drift.field, --drift.n_pos: --objective flow has no use for them")
    assert error_of(check, "--denoise_timesteps=4").startswith(
        "--denoise_timesteps: --objective drift has no use for it"
    )


def test_flags_of_a_part_that_is_not_there_are_refused():
    def check(*words):
        config_lib.check_use(resolve(*words), parse(*words))

    for off in ("--model.name=mlp", "--model.clip_output=0", "--objective=flow"):
        check(off, "--model.refine_channels=0", "--model.clip_margin=0", "--model.antialias=0")
    check("--model.clip_output=1", "--model.refine_channels=8", "--model.clip_margin=1")
    for words, message in (
        (["--model.name=mlp", "--model.refine_channels=8"], "=8: .* --model.name=mlp; leave it"),
        (["--model.name=mlp", "--model.antialias=0.1"], "=0.1: .* not those of --model.name=mlp"),
        (["--model.clip_output=0", "--model.antialias=0.1"], "=0.1: samples are not .* out"),
        (["--model.clip_output=0", "--model.clip_margin=1"], "=1: samples are not clipped .* out"),
        (["--objective=flow", "--model.clip_margin=1"], "=1: samples are not clipped .* out"),
    ):
        with pytest.raises(UserError, match=f"{words[1].split('=')[0]}{message}"):
            check(*words)


def test_flag_beats_preset_beats_recipe_on_the_real_tables():
    config = resolve("--dataset_name", "digits", "--model.depth", "3", "--model.preset", "tiny")
    assert config.model.depth == 3  # given before the preset, and kept
    assert (
        config.model.hidden_size
        == PRESETS["tiny"]["model.hidden_size"]
        != digits.OVERRIDES["model.hidden_size"]
    )
    assert config.model.patch_size == digits.OVERRIDES["model.patch_size"]  # no preset sets it
    assert config.optim.clip == 2.0


def test_flag_equal_to_the_default_still_beats_the_recipe():
    assert resolve("--batch_size=4096").batch_size == 4096


def test_recipe_is_chosen_by_data_set_or_by_name(recipe_folder):
    assert resolve().recipe == "digits"
    assert resolve("--dataset_name=elsewhere").recipe == "none"
    assert resolve("--recipe=none").max_steps == 30_000
    recipe_folder("newset", {"max_steps": 77, "model.preset": "small"})
    config = resolve("--dataset_name=newset")
    assert (config.recipe, config.max_steps, config.model.hidden_size) == ("newset", 77, 384)
    assert resolve("--recipe=newset").dataset_name == "digits"
    assert resolve("--recipe=newset", "--model.preset=base").model.hidden_size == 768
    assert resolve("--recipe=newset", "--model.preset=").model.depth == 12
    assert resolve("--recipe=newset", "--model.preset=").model.preset == ""


def test_saved_run_takes_the_place_of_defaults_and_recipe():
    saved = resolve("--model.preset=tiny", "--seed=5")
    config = config_lib.resolve(parse("--max_steps=2000"), saved=saved)
    assert (config.seed, config.max_steps) == (5, 2000)
    assert (config.model.depth, config.recipe) == (6, "digits")
    assert config.optim.learning_rate == 2e-3
    larger = config_lib.resolve({"model.preset": "small", "model.depth": 1}, saved=saved)
    assert (larger.model.hidden_size, larger.model.depth, larger.seed) == (384, 1, 5)


def test_explain_names_the_source_of_each_value():
    flag_values = parse("--model.preset=tiny", "--model.depth=3", "--drift.temperatures=0.1,0.3")
    config = config_lib.resolve(flag_values)
    config.save_dir = "runs/x"
    table = [
        line.split(maxsplit=2)
        for line in config_lib.explain(config, flag_values).splitlines()
        if line
    ]
    lines = {name: rest for name, *rest in table}
    assert lines["model.depth"] == ["3", "command line"]
    assert lines["model.hidden_size"] == ["192", "preset tiny"]
    assert lines["batch_size"] == [str(digits.OVERRIDES["batch_size"]), "recipe digits"]
    assert lines["optim.b2"] == ["0.95", "default"]
    assert lines["drift.temperatures"] == ["0.1,0.3", "command line"]
    assert lines["save_dir"] == ["runs/x", "program"]
    assert set(lines) == {"key"} | {key.name for key in TABLE}


# ---------------------------------------------------------------- the tables


def test_table_rows_are_sound():
    assert len({key.name for key in TABLE}) == len(TABLE)
    for key in TABLE:
        assert config_lib.convert(key, key.default) == key.default
        assert key.help
        assert key.accepts or isinstance(key.default, bool | str), f"{key.name} accepts any number"


@pytest.mark.parametrize("name", config_lib.recipes())
def test_every_recipe_resolves(name):
    module = importlib.import_module(f"configs.{name}")
    for heading in ("Command", "Hardware", "Time", "Expected", "Measured"):
        assert f"\n{heading} " in module.__doc__, f"the header of {name} lacks {heading}"
    config = config_lib.flatten(config_lib.resolve({"recipe": name}))
    for key, value in module.OVERRIDES.items():
        assert config[key] == value, f"the preset of {name} hides its {key}"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_resolves(name):
    assert all(key.startswith("model.") for key in PRESETS[name])
    resolved = config_lib.flatten(config_lib.resolve(PLAIN | {"model.preset": name}))
    assert PRESETS[name].items() <= resolved.items()


def test_config_is_locked_and_typed():
    config = resolve()
    with pytest.raises(AttributeError):
        config.model.dpth = 3
    with pytest.raises(TypeError):
        config.model.depth = "three"


# ---------------------------------------------------------------- spellings


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--data.flip"], True),
        (["--nodata.flip"], False),
        *[([f"--data.flip={word}"], True) for word in ("1", "true", "True", "t", "yes")],
        *[(["--data.flip", word], True) for word in ("1", "true", "TRUE", "yes")],
        *[([f"--data.flip={word}"], False) for word in ("0", "false", "False", "f", "no")],
        *[(["--data.flip", word], False) for word in ("0", "false", "FALSE", "no")],
        (["-data.flip", "1"], True),
        (["--data.flip", "--seed", "1"], True),
        (["--data.flip", "--nodata.flip"], False),
    ],
)
def test_booleans(words, value):
    assert config_lib.given_flags(parse(*words))["data.flip"] is value


@pytest.mark.parametrize("word", ["--optim.ema", "--drift.temperatures"])
def test_tuples(word):
    name = word[2:]
    for text in ("0.5,0.25", "(0.5, 0.25)", "[0.5,0.25]"):
        assert config_lib.given_flags(parse(word, text))[name] == (0.5, 0.25)
    assert config_lib.given_flags(parse(f"{word}=0.5"))[name] == (0.5,)


def test_numbers_and_all():
    config = resolve(
        "--drift.n_pos=all", "--drift.bank_per_class", "all", "--max_steps=1e5", "--optim.b1=0"
    )
    assert (config.drift.n_pos, config.drift.bank_per_class) == ("all", "all")
    assert config.max_steps == 100_000
    assert isinstance(config.max_steps, int) and isinstance(config.optim.b1, float)
    config = resolve("--drift.n_pos=7", "--drift.bank_per_class", "8", "--max_steps=1_000")
    assert (config.drift.n_pos, config.drift.bank_per_class, config.max_steps) == (7, 8, 1000)


def test_negative_number_is_a_value():
    extra = [Key("offset", 0, "may be negative", "[-5, 5]")]
    assert config_lib.all_flags(parse("--offset", "-3", groups=(), extra=extra)).offset == -3
    assert "--seed=-1: expected an integer in [0, " in error_of(parse, "--seed", "-1")


def test_the_last_of_a_repeated_flag_counts():
    assert config_lib.given_flags(parse("--seed=1", "--seed=2")) == {"seed": 2}


def test_other_programs_take_part_of_the_table():
    extra = [Key("n_samples", 50_000, "how many", "[1, inf)")]
    flag_values = parse(
        "--load_dir=x", "--n_samples=10", "--data.dir=y", groups=["load_dir", "data"], extra=extra
    )
    values = config_lib.all_flags(flag_values)
    assert (values.load_dir, values.n_samples) == ("x", 10)
    assert (values.data.dir, values.data.split) == ("y", "train")
    given = {"load_dir": "x", "n_samples": 10, "data.dir": "y"}
    assert config_lib.given_flags(flag_values) == given
    parse_less = functools.partial(parse, groups=("load_dir",))
    assert "unknown flag --model.depth" in error_of(parse_less, "--model.depth=1")
    with pytest.raises(ValueError, match="modle"):
        config_lib.define_flags(("modle",), (), flags.FlagValues())


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--model.dpth=4"], ["--model.dpth", "--model.depth"]),
        (["--depth=4"], ["--depth", "did you mean --model.depth?"]),
        (["--model.lr=1"], ["--optim.learning_rate"]),
        (["--nomodel.remt"], ["nomodel.remt", "--model.remat"]),
        (["--model.depth"], ["--model.depth", "Missing value"]),
        (["--save_dir", "--seed", "3"], ["--save_dir", "--seed"]),
        (["--data.flip", "maybe"], ["'maybe'"]),
        (["--data.flip=maybe"], ["--data.flip=maybe", "true or false"]),
        (["--nodata.flip=1"], ["--nodata.flip=1"]),
        (["model.depth=4"], ["'model.depth=4'", "--model.depth"]),
        (["--model.depth=2.5"], ["--model.depth=2.5", "an integer in [1, 1000]"]),
        (["--model.depth=0"], ["--model.depth=0", "an integer in [1, 1000]"]),
        (["--model.depth=all"], ["--model.depth=all", "an integer"]),
        (["--drift.n_pos=al"], ["--drift.n_pos=al", "an integer in [2, 1048576] or all"]),
        (["--optim.learning_rate=0"], ["--optim.learning_rate=0", "a number in (0, inf)"]),
        (["--optim.learning_rate=nan"], ["--optim.learning_rate=nan"]),
        (["--optim.clip=inf"], ["--optim.clip=inf"]),
        (["--max_steps=inf"], ["--max_steps=inf"]),
        (["--optim.ema=0.9,1"], ["--optim.ema=0.9,1", "(0, 1)"]),
        (["--optim.ema="], ["--optim.ema="]),
        (["--optim.ema=0.9,0.9"], ["--optim.ema=0.9,0.9", "different"]),
        (["--drift.temperatures=0.1,-1"], ["--drift.temperatures=0.1,-1", "(0, inf)"]),
        (["--drift.no_cfg_frac=1.1"], ["--drift.no_cfg_frac=1.1", "[0, 1]"]),
        (["--model.class_dropout_prob=1"], ["--model.class_dropout_prob=1", "[0, 1)"]),
        (["--model.attention=cudn"], ["--model.attention=cudn", "one of auto, xla, cudnn"]),
    ],
)
def test_bad_command_line(words, parts):
    message = error_of(parse, *words)
    assert all(part in message for part in parts), message


def test_samples_per_class_follow_the_batch_size():
    cifar10 = {"dataset_name": "cifar10"}
    assert config_lib.resolve(cifar10 | {"batch_size": 128}).drift.n_neg == 128
    assert config_lib.resolve({"dataset_name": "digits", "batch_size": 100}).drift.n_neg == 10
    assert config_lib.resolve({"dataset_name": "digits", "batch_size": 128}).drift.n_neg == 64
    given = cifar10 | {"batch_size": 128, "drift.n_neg": 100}
    assert "--batch_size=128" in error_of(config_lib.resolve, given)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"model.preset": "bigg"}, ["--model.preset=bigg", "did you mean big?", "xlarge"]),
        ({"recipe": "digit"}, ["--recipe=digit", "did you mean digits?"]),
        ({"recipe": "default"}, ["--recipe=default"]),
        ({"model.dpth": 4}, ["model.dpth", "did you mean model.depth?"]),
        ({"model": {"depth": True}}, ["--model.depth=True", "an integer"]),
        ({"seed": None}, ["--seed=None", "an integer"]),
        ({"save_dir": 3}, ["--save_dir=3", "a path"]),
        ({"batch_size": 100}, ["--batch_size=100", "--drift.n_neg=64", "e.g. 64"]),
        ({"batch_size": 32}, ["--batch_size=32", "--drift.n_neg=64", "e.g. 64"]),
        (
            {"drift.alpha_min": 2.0, "drift.alpha_max": 1.5},
            ["--drift.alpha_min=2", "--drift.alpha_max=1.5"],
        ),
        ({"drift.n_unc": 0}, ["--drift.n_unc=0", "--drift.alpha_max=1 "]),
        ({"drift.n_pos": 200}, ["--drift.n_pos=200", "--drift.bank_per_class=128"]),
        (
            {"drift.n_unc": 50, "drift.bank_global": 49},
            ["--drift.n_unc=50", "--drift.bank_global=49"],
        ),
        ({"model.hidden_size": 100}, ["--model.hidden_size=100", "--model.num_heads=12"]),
        ({"model.hidden_size": 12}, ["--model.hidden_size=12", "--model.use_rope"]),
        ({"data.image_size": 31}, ["--data.image_size=31", "--model.patch_size=2"]),
        (
            {"model.attention": "cudnn", "model.use_bf16": False},
            ["--model.attention=cudnn", "--model.use_bf16=1"],
        ),
        ({"model.attention": "cudnn"}, ["--model.attention=cudnn", "--model.attn_fp32=0"]),
        (
            {"optim.schedule": "cosine", "max_steps": 5000},
            ["--optim.warmup_steps=5000", "--max_steps=5000"],
        ),
        (
            {"optim.schedule": "cosine", "optim.end_learning_rate": 1.0},
            ["_learning_rate=1", "=0.0002"],
        ),
        ({"mesh.devices": 6, "mesh.fsdp": 4}, ["--mesh.devices=6", "--mesh.fsdp=4"]),
    ],
)
def test_bad_values(given, parts):
    message = error_of(config_lib.resolve, PLAIN | given)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "given",
    [
        {"drift.n_pos": 200, "drift.bank_per_class": "all"},
        {"drift.n_pos": "all"},
        {"drift.bank_global": 0},
        {"drift.n_unc": 0, "drift.alpha_max": 1},
        {"model.name": "mlp", "model.hidden_size": 100},
        {"model.use_rope": False, "model.hidden_size": 12},
        {"mesh.devices": 8, "mesh.fsdp": 4},
        {"max_steps": 10},
        {"data.image_size": 250, "model.patch_size": 4, "model.use_stable_vae": True},
    ],
)
def test_values_that_fit(given):
    resolved = config_lib.flatten(config_lib.resolve(PLAIN | given))
    assert given.items() <= resolved.items()


def test_bad_recipe_is_named(recipe_folder):
    recipe_folder("broken", {"model.dpth": 3})
    message = error_of(resolve, "--recipe=broken")
    assert message == "recipe broken: unknown key model.dpth; did you mean model.depth?"
    recipe_folder("wrong", {"model.depth": "deep"})
    assert "recipe wrong: model.depth=deep: expected an integer" in error_of(
        resolve, "--recipe=wrong"
    )


# ---------------------------------------------------------------- config.json


def test_json_round_trip(tmp_path):
    config = resolve("--model.preset=tiny", "--optim.ema=0.9", "--drift.n_pos=5", "--data.flip")
    config_lib.save_json(config, tmp_path / "config.json")
    again = config_lib.from_json(tmp_path / "config.json")
    assert again == config and again.is_locked and isinstance(again.optim.ema, tuple)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert json.loads((tmp_path / "config.json").read_text())["drift"]["n_pos"] == 5


def test_older_json_takes_defaults_and_says_so(caplog):
    values = resolve("--model.depth=3").to_dict()
    del values["model"]["attention"], values["wandb"]
    with caplog.at_level(logging.WARNING):
        config = config_lib.from_dict(values, "old/config.json")
    assert (config.model.attention, config.wandb.mode, config.model.depth) == ("xla", "disabled", 3)
    assert "old/config.json lacks model.attention, wandb.mode" in caplog.text


def test_bad_json(tmp_path):
    path = tmp_path / "config.json"
    assert str(path) in error_of(config_lib.from_json, path)
    for text, part in [
        ("{", "not JSON"),
        ("[1]", "list"),
        ('{"model": {"dpth": 1}}', "did you mean model.depth?"),
        ('{"model": {"depth": "x"}}', "model.depth=x: expected an integer"),
    ]:
        path.write_text(text)
        message = error_of(config_lib.from_json, path)
        assert str(path) in message and part in message
    assert "cannot write" in error_of(
        config_lib.save_json, resolve(), tmp_path / "no" / "config.json"
    )


# ---------------------------------------------------------------- a program

SCRIPT = '''"""A tiny program."""
import sys
sys.path.insert(0, {root!r})
from utils import config as config_lib
from utils.errors import UserError

def main(flag_values):
    config = config_lib.resolve(flag_values)
    if config.seed == 13:
        raise UserError("seed 13\\nis unlucky")
    if config.seed == 14:
        raise RuntimeError("a bug")
    print(config.model.depth, "jax" in sys.modules)

if __name__ == "__main__":
    config_lib.define_flags()
    config_lib.run_main(main)
'''


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(SCRIPT.format(root=str(ROOT)))

    def run(*words):
        return subprocess.run(
            [sys.executable, str(tmp_path / "program.py"), *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return run


def test_program_runs_without_jax(program):
    done = program("--model.depth", "3", "--data.flip", "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 False\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--model.dpth", "3"],
            "error: unknown flag --model.dpth; did you mean --model.depth? (--help lists all)\n",
        ),
        (["--model.depth", "x"], "error: --model.depth=x: expected an integer in [1, 1000]\n"),
        (["--seed", "13"], "error: seed 13 is unlucky\n"),
    ],
)
def test_user_errors_are_one_line(program, words, message):
    done = program(*words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


def test_bugs_keep_their_traceback(program):
    done = program("--seed=14")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_help_lists_every_flag_with_its_help(program):
    done = program("--help")
    assert done.returncode == 0 and done.stdout.startswith("A tiny program.\n")
    for key in TABLE:
        lines = [line for line in done.stdout.splitlines() if line.startswith(f"  --{key.name} ")]
        assert len(lines) == 1 and key.help in lines[0]
    assert "recipes: " in done.stdout and "digits" in done.stdout and "semilarge" in done.stdout


def test_flagfile(program, tmp_path):
    (tmp_path / "my.flags").write_text("--model.depth=5\n--nodata.flip\n")
    assert program("--flagfile", str(tmp_path / "my.flags")).stdout == "5 False\n"
