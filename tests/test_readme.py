"""The README's snippets run and do what is said beside them; the flags it names exist."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from absl.flags import FlagValues
from conftest import ROOT

from evaluation.flags import define_evaluation_flags
from utils import config
from utils.config import KEYS

TEXT = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def run(i):
    names = {}
    exec(compile(SNIPPETS[i], f"README snippet {i}", "exec"), names)
    return names


def test_generate():
    names = run(0)
    assert names["images"].shape == (4, 32, 32, 3) and np.isfinite(names["images"]).all()


def test_loss_and_gradient():
    names = run(1)
    assert names["gradient"].shape == (32, 8, 8, 1) and jnp.abs(names["gradient"]).max() > 0
    moved = names["generated"] - 0.1 * names["gradient"] / jnp.abs(names["gradient"]).max()
    assert jnp.linalg.norm(moved.mean(0) - names["real"].mean(0)) < jnp.linalg.norm(
        names["generated"].mean(0) - names["real"].mean(0)
    )


def test_a_loop_of_your_own_learns():
    """The linear generator ends with the mean and the spread of its data."""
    params = run(2)["state"].ema["0.99"]
    np.testing.assert_allclose(params["b"], [3, 3], atol=0.3)
    spread = np.sqrt(np.sum(np.asarray(params["w"]) ** 2, 0))
    np.testing.assert_allclose(spread, [1, 0.2], atol=0.25)


@pytest.mark.parametrize(
    "flag",
    sorted(
        set(
            re.findall(
                r"--((?:model|drift|optim|mesh|wandb)\.\w+|dry_run|stop_on_collapse|save_dir|dataset_name)",
                TEXT,
            )
        )
    ),
)
def test_flags_exist(flag):
    assert flag in KEYS


def test_commands_of_evaluation():
    """Every eval_fid.py line of the README and of docs/evaluation.md parses."""
    lines = re.findall(
        r"python eval_fid\.py ([^\n#`]*)", TEXT + (ROOT / "docs" / "evaluation.md").read_text()
    )
    assert len(lines) >= 7
    for line in lines:
        config.parse(["eval_fid.py", *line.split()], define_evaluation_flags(FlagValues()))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([\w/.]+)\)", TEXT))))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()
