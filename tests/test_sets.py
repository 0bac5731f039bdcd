"""Feature sets packed by width, keys drawn together, settings of the compiler."""

import jax
import numpy as np

from drifting.sets import by_width, pack, unpack
from drifting.state import named_key, named_keys
from utils import compiler, sharding


def test_pack_and_unpack():
    random = np.random.default_rng(0)
    phi = {"b": random.normal(size=(3, 4, 2)), "wide": random.normal(size=(3, 1, 5)), "a": random.normal(size=(3, 1, 2))}
    assert by_width(phi) == {"2": ["a", "b"], "5": ["wide"]}
    packed = pack(phi)
    np.testing.assert_array_equal(packed["2"], np.concatenate([phi["a"], phi["b"]], 1).astype(np.float32))
    other = unpack({d: f[:2] for d, f in packed.items()}, phi)  # of fewer samples
    for name, f in phi.items():
        np.testing.assert_array_equal(other[name], f[:2].astype(np.float32))


def test_keys_drawn_together_are_those_drawn_apart():
    keys = named_keys(np.uint32(3), ("labels", "noise", "noise second"), 17)
    for name, key in keys.items():
        np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(named_key(np.uint32(3), name, 17)))


def test_compiler_settings_that_are_named_or_unknown_are_left_alone(monkeypatch):
    mesh = sharding.make_mesh(1, 1)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    assert set(compiler.options(mesh)) == {"xla_cpu_use_fusion_emitters"}
    monkeypatch.setitem(compiler.CPU, "xla_cpu_no_such_setting", 1)
    assert set(compiler.options(mesh)) == {"xla_cpu_use_fusion_emitters"}
    assert jax.jit(lambda x: x + 1, compiler_options=compiler.options(mesh))(1) == 2
