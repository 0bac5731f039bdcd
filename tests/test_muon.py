"""Muon: its steps against loops in NumPy, and runs that resume, accumulate and spread."""

import jax
import numpy as np
import optax
import pytest
from test_train import STREAM, TINY, as_at, everything_saved, parts_of, same_bits, train

from training.drift_state import state_shapes
from training.muon import optimizer_of_each
from training.optimizer import build_optimizer
from utils import config as config_lib
from utils.checkpoint.trees import flatten_tree, nest
from utils.errors import UserError
from utils.memory import bytes_on_a_device

MUON = STREAM | {"optim.name": "muon", "max_steps": 6, "save_interval": 3}
RATE, DECAY, CLIP, BETA = 0.01, 0.1, 5.0, 0.95


def newton_schulz(matrix):
    """Returns `matrix` made about orthogonal, as the authors of Muon write it."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (np.linalg.norm(matrix) + 1e-8)
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class NaiveMuon:
    """Muon for one matrix."""

    def __init__(self):
        self.momentum, self.steps = 0.0, 0

    def update(self, gradient, matrix):
        self.steps += 1
        self.momentum = BETA * self.momentum + (1 - BETA) * gradient
        ahead = BETA * self.momentum / (1 - BETA ** (self.steps + 1))  # Nesterov's look
        ahead = ahead + (1 - BETA) * gradient / (1 - BETA**self.steps)
        direction = 0.2 * np.sqrt(max(matrix.shape)) * newton_schulz(ahead)
        return -RATE * (direction + DECAY * matrix)


def matrices_of(name, array):
    """Returns the matrices in a kernel: those of each block; queries, keys and values apart."""
    array = np.float64(array)
    if array.ndim == 4:
        return [array.reshape(-1, array.shape[-1])]
    blocks = list(array) if array.ndim == 3 else [array]
    parts = 3 if "qkv" in name else 1
    return [part for block in blocks for part in np.split(block, parts, axis=1)]


SHAPES = {
    "blocks/attention/qkv/kernel": (2, 6, 18),
    "blocks/attention/out/kernel": (2, 6, 6),
    "blocks/mlp/down/kernel": (2, 16, 6),
    "context_projection/kernel": (5, 6),
    "encoder/conv2/kernel": (3, 3, 4, 8),
}
SHAPES_OF_ADAMW = {
    "blocks/attention/qkv/bias": (2, 18),
    "encoder/conv1/kernel": (3, 3, 1, 4),
    "patch_embedding/kernel": (4, 6),
    "refinement/conv2/kernel": (3, 3, 4, 4),
    "positions": (1, 4, 6),
}


def test_steps_are_those_of_loops_over_matrices():
    draw = np.random.default_rng(0).standard_normal
    changes = {"optim.learning_rate": RATE, "optim.weight_decay": DECAY, "optim.warmup_steps": 0}
    config = config_lib.resolve(TINY | {"optim.name": "muon", "optim.clip": CLIP} | changes)
    _, optimizer = build_optimizer(config.optim, 10)
    adamw = optax.adamw(RATE, config.optim.b1, config.optim.b2, weight_decay=DECAY)
    muons = {name: [NaiveMuon() for _ in range(6)] for name in SHAPES}

    @jax.jit
    def step(grads, state, params):
        return optimizer.update(nest(grads), state, nest(params))

    params = {name: draw(shape) for name, shape in (SHAPES | SHAPES_OF_ADAMW).items()}
    state, adamw_state = jax.jit(optimizer.init)(nest(params)), jax.jit(adamw.init)(params)
    for _ in range(3):
        grads = {name: draw(array.shape) for name, array in params.items()}
        updates, state = step(grads, state, params)
        updates = flatten_tree(jax.device_get(updates))

        norm = np.sqrt(sum(np.sum(gradient**2) for gradient in grads.values()))
        clipped = {name: gradient * min(1, CLIP / norm) for name, gradient in grads.items()}
        of_adamw, adamw_state = jax.jit(adamw.update)(clipped, adamw_state, params)
        for name in SHAPES_OF_ADAMW:
            np.testing.assert_allclose(updates[name], of_adamw[name], atol=1e-7)
        for name in SHAPES:
            found, gradient, matrix = (
                matrices_of(name, tree[name]) for tree in (updates, clipped, params)
            )
            expected = [
                muon.update(*pair)
                for muon, *pair in zip(muons[name], gradient, matrix, strict=False)
            ]
            np.testing.assert_allclose(found, expected, atol=2e-6)
        params = {name: array + updates[name] for name, array in params.items()}


@pytest.mark.usefixtures("shared_steps")
def test_a_run_resumes_to_the_bit(tmp_path):
    whole = train(tmp_path / "straight", MUON)
    tree, _, step = everything_saved(tmp_path / "straight", MUON)
    assert step == 6
    folder = as_at(3, tmp_path / "straight", tmp_path / "resumed")
    assert train(folder, MUON) == whole
    again, _, _ = everything_saved(folder, MUON)
    same_bits(tree, again)
    with pytest.raises(UserError, match="optim.name = muon, but optim.name = adamw"):
        train(folder, MUON | {"optim.name": "adamw", "max_steps": 9})


@pytest.mark.slow
def test_devices_and_groups_do_not_change_the_losses(tmp_path):
    def losses(name, changes, **devices):
        lines = train(tmp_path / name, MUON | changes, **devices)
        return [line["loss"] for line in lines]

    groups = {"optim.accumulate": 2, "drift.exact_scales": True}
    one = losses("one", {})
    np.testing.assert_allclose(losses("groups", groups), one, rtol=2e-3)
    np.testing.assert_allclose(losses("devices", groups, devices=4, fsdp=2), one, rtol=2e-3)


def test_state_is_divided_like_the_parameters():
    """A momentum of a matrix takes the room of the matrix, and AdamW's two that of the rest."""
    wide = {"optim.name": "muon", "model.hidden_size": 128, "model.num_heads": 2}
    parts = parts_of(wide, devices=4, fsdp=4)
    state = state_shapes(parts)
    kinds = jax.tree.leaves(optimizer_of_each(state.params))
    size = {"muon": 1, "adamw": 2}
    leaves = jax.tree.leaves(state.params)
    expected = sum(size[k] * bytes_on_a_device(a) for k, a in zip(kinds, leaves, strict=True))
    assert abs(bytes_on_a_device(state.opt_state) - expected) < 100  # counters
    assert expected < 0.4 * sum(2 * 4 * a.size for a in leaves)
