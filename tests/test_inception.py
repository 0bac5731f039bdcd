"""The FID network and the readers of its weights. Weights are drawn by rule; nothing is fetched."""

import collections
import hashlib
import io
import json
import os
import pathlib
import pickle
import struct
import types
import urllib.error
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from weight_rule import draw

from metrics import inception_weights
from metrics.inception import in_batches, load_inception, prepare
from metrics.inception_network import TAPS
from metrics.resize import resize
from utils.errors import UserError
from utils.weight_files.torch_file import LEGACY_PROTOCOL, MAGIC_NUMBER, read_torch_file

GOLDEN = pathlib.Path(__file__).parent / "golden" / "inception_fid"


@pytest.fixture(scope="module")
def tensors():
    spec = json.loads((GOLDEN / "spec.json").read_text())
    return {
        key: draw(key, tuple(shape), spec["weight_seed"], spec["gain"])
        for key, shape in spec["tensors"].items()
    }


@pytest.fixture(scope="module")
def network(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "drawn.pth"
    write_zip(path, tensors)
    return load_inception(path)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "io.npz") as file:
        return dict(file)


# -------------------------------------------------- `.pth` files as PyTorch writes them, without it


class Storage:
    """The memory of one or more tensors."""

    def __init__(self, array):
        self.array = np.ascontiguousarray(array)


class Name:
    """Pickles as a reference to module.name, which need not exist."""

    def __init__(self, module, name):
        self.code = f"c{module}\n{name}\n".encode()

    def __call__(self):
        raise NotImplementedError  # pickle insists on something that can be called


class Tensor:
    """Pickles as PyTorch's tensors do: a call of _rebuild_tensor_v2 on a persistent storage."""

    def __init__(self, array, storage=None, offset=0, stride=None):
        self.storage = storage or Storage(array)
        self.offset, self.size = offset, array.shape
        self.stride = stride or tuple(step // array.itemsize for step in array.copy("C").strides)

    def __reduce__(self):
        args = (self.storage, self.offset, self.size, self.stride, False, collections.OrderedDict())
        return Name("torch._utils", "_rebuild_tensor_v2"), args


STORAGE_NAMES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "bool": "BoolStorage",
}


def write_name(pickler, name):
    pickler.write(name.code)


class Pickler(pickle._Pickler):
    """The one in Python: only it lets a name be written that cannot be imported."""

    dispatch = {**pickle._Pickler.dispatch, Name: write_name}

    def __init__(self, file, legacy):
        super().__init__(file, protocol=2)
        self.legacy, self.storages = legacy, []

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        if obj not in self.storages:
            self.storages.append(obj)
        kind = Name("torch", STORAGE_NAMES[obj.array.dtype.name])
        pid = ("storage", kind, str(self.storages.index(obj)), "cpu", obj.array.size)
        return (*pid, None) if self.legacy else pid


def to_tree(tree):
    if isinstance(tree, dict):
        return collections.OrderedDict((key, to_tree(value)) for key, value in tree.items())
    return Tensor(tree) if isinstance(tree, np.ndarray) else tree


def write_zip(path, tree):
    buffer = io.BytesIO()
    pickler = Pickler(buffer, legacy=False)
    pickler.dump(to_tree(tree))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        archive.writestr("archive/byteorder", "little")
        for i, storage in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{i}", storage.array.tobytes())
        archive.writestr("archive/version", "3\n")


def write_legacy(path, tree):
    with open(path, "wb") as file:
        pickle.dump(MAGIC_NUMBER, file, protocol=2)
        pickle.dump(LEGACY_PROTOCOL, file, protocol=2)
        pickle.dump(
            {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, file, protocol=2
        )
        pickler = Pickler(file, legacy=True)
        pickler.dump(to_tree(tree))
        pickle.dump([str(i) for i in range(len(pickler.storages))], file, protocol=2)
        for storage in pickler.storages:
            file.write(struct.pack("<q", storage.array.size) + storage.array.tobytes())


WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])


@WRITERS
def test_reads_tensors(write, tmp_path):
    base = np.arange(24, dtype=np.float32)
    shared = Storage(base)
    tree = {
        "a": base.reshape(2, 3, 4),
        "n": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
        "half": base.astype(np.float16),
        "nested": {"mask": base > 3, "epoch": 4},
        "transposed": Tensor(base.reshape(4, 6).T, shared, 0, (1, 6)),
        "view": Tensor(base[4:10].reshape(2, 3), shared, 4, (3, 1)),
    }
    write(tmp_path / "x.pth", tree)
    read = read_torch_file(tmp_path / "x.pth")
    np.testing.assert_array_equal(read["a"], base.reshape(2, 3, 4))
    np.testing.assert_array_equal(read["transposed"], base.reshape(4, 6).T)
    np.testing.assert_array_equal(read["view"], [[4, 5, 6], [7, 8, 9]])
    assert read["n"] == 7
    assert read["n"].shape == ()
    assert read["n"].dtype == np.int64
    assert read["empty"].shape == (0, 3)
    assert read["half"].dtype == np.float16
    assert read["nested"]["mask"].dtype == bool
    assert read["nested"]["epoch"] == 4


class Attack:
    """Pickles as a call of anything."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@WRITERS
@pytest.mark.parametrize(
    "call, args, name",
    [
        (os.mkdir, ["{}/ran"], "mkdir"),
        (eval, ["open('{}/ran', 'w')"], "eval"),
        (getattr, ["", "join"], "getattr"),
        (types.SimpleNamespace, [], "SimpleNamespace"),
    ],
)
def test_refuses_to_run_anything(write, call, args, name, tmp_path):
    args = [arg.format(tmp_path) for arg in args]
    write(tmp_path / "x.pth", {"weights": np.ones(3, np.float32), "more": Attack(call, *args)})
    with pytest.raises(UserError, match=f"asks for .*{name}, which is no tensor"):
        read_torch_file(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


def test_allowed_names_cannot_be_changed(tmp_path):
    """BUILD sets attributes on whatever object it is given: the allowed names must not take any."""
    for target in (
        b"torch._utils\n_rebuild_tensor_v2",
        b"torch\nFloatStorage",
        b"collections\nOrderedDict",
    ):
        code = b"\x80\x02c" + target + b"\nN}X\x08\x00\x00\x00__call__K\x01s\x86b."
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("archive/data.pkl", code)
        with pytest.raises(UserError, match="damaged"):
            read_torch_file(tmp_path / "x.pth")


@WRITERS
@pytest.mark.parametrize(
    "tensor",
    [dict(offset=1), dict(offset=-1), dict(stride=(4, 2)), dict(stride=(-2, 1)), dict(stride=(1,))],
)
def test_refuses_to_read_beyond_a_storage(write, tensor, tmp_path):
    write(tmp_path / "x.pth", {"w": Tensor(np.ones((3, 2), np.float32), **tensor)})
    with pytest.raises(UserError, match="damaged"):
        read_torch_file(tmp_path / "x.pth")


@WRITERS
def test_refuses_every_truncation(write, tmp_path):
    path = tmp_path / "x.pth"
    write(path, {"w": np.ones((3, 2), np.float32), "b": np.zeros(2)})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="damaged") as error:
            read_torch_file(path)
        assert "\n" not in str(error.value)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="no weights file"):
        read_torch_file(tmp_path / "x.pth")


# -------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("size", ["32", "rect", "big"])
def test_golden(network, golden, size):
    features, params = network
    images = golden[f"images_{size}"]
    result = in_batches(features, params, images, 4, list(TAPS))
    for tap, width in TAPS.items():
        expected = golden[f"{tap}_{size}"]
        assert result[tap].shape == (len(images), width)
        assert np.abs(result[tap] - expected).max() <= 1e-5 * np.abs(expected).max(), tap


def test_batch_size_does_not_matter(network, golden):
    features, params = network
    images = np.concatenate([golden["images_32"]] * 2)[:5]
    four = in_batches(features, params, images, 4, ["2048", "logits_unbiased"])
    for tap, value in in_batches(features, params, images, 1, list(four)).items():
        assert np.abs(value - four[tap]).max() <= 1e-6 * np.abs(four[tap]).max(), tap


def test_one_compilation_per_image_size(network, golden):
    features, params = network
    inside_jit = jax.jit(lambda params, images: features(params, images)["2048"])
    images = golden["images_32"]
    expected = in_batches(features, params, images, 4, ["2048"])["2048"]
    resize.clear_cache()
    for part in (images, images[:3], images[:1]):
        in_batches(features, params, part, 4, ["2048"])
    assert resize._cache_size() == 1
    np.testing.assert_allclose(
        inside_jit(params, images), expected, rtol=0, atol=1e-6 * expected.max()
    )


def test_refuses_other_images(network):
    features, params = network
    good = np.zeros((2, 32, 32, 3), np.uint8)
    for images in (good[..., :1], good[0], good.astype(np.float32)):
        with pytest.raises(UserError, match=r"expected uint8 \[B, H, W, 3\]"):
            features(params, images)


# -------------------------------------------------------------------------------------- the weights


def write_npz(path, tensors):
    np.savez(path, **tensors)


def write_safetensors(path, tensors):
    safetensors.numpy.save_file(tensors, path)


@pytest.mark.parametrize(
    "name, write",
    [
        ("w.npz", write_npz),
        ("w.pth", write_legacy),
        ("w.safetensors", write_safetensors),
    ],
)
def test_every_format_gives_the_same_parameters(name, write, tensors, network, tmp_path):
    write(tmp_path / name, tensors)
    _, params = load_inception(tmp_path / name)
    jax.tree.map(np.testing.assert_array_equal, params, network[1])


def test_refuses_wrong_tensors(tensors, tmp_path):
    path = tmp_path / "w.pth"
    lost = "Mixed_6a.branch3x3.bn.running_var"
    write_zip(path, {key: value for key, value in tensors.items() if key != lost})
    with pytest.raises(UserError, match=f"no tensor {lost}"):
        load_inception(path)
    write_zip(path, {**tensors, "fc.weight": np.zeros((1000, 2048), np.float32)})
    words = r"fc.weight has shape \(1000, 2048\), expected \(1008, 2048\)"
    with pytest.raises(UserError, match=words):
        load_inception(path)
    write_zip(path, {"state_dict": tensors})
    with pytest.raises(UserError, match="no plain"):
        load_inception(path)


@pytest.mark.parametrize("name", ["w.pth", "w.npz", "w.safetensors"])
def test_refuses_damaged_files(name, tmp_path):
    with pytest.raises(UserError, match="no Inception weights at"):
        load_inception(tmp_path / name)
    for content in (b"", b"PK\x03\x04 cut", b"<html>not found</html>" * 20):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            load_inception(tmp_path / name)


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Stands for the network; holds the answer and the addresses asked for."""
    server = types.SimpleNamespace(answer=b"", asked=[], cache=tmp_path / "jax-drift")

    def urlopen(url, timeout):
        server.asked.append(url)
        if isinstance(server.answer, Exception):
            raise server.answer
        return io.BytesIO(server.answer)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return server


def test_standard_file_is_fetched_once(server, tensors, network, tmp_path, monkeypatch):
    write_legacy(tmp_path / "source.pth", tensors)
    server.answer = (tmp_path / "source.pth").read_bytes()
    digest = hashlib.sha256(server.answer).hexdigest()
    monkeypatch.setattr(inception_weights, "WEIGHTS_SHA256", digest)
    for source in (None, ""):
        _, params = load_inception(source)
    jax.tree.map(np.testing.assert_array_equal, params, network[1])
    assert server.asked == [inception_weights.WEIGHTS_URL]
    assert [path.name for path in server.cache.iterdir()] == [inception_weights.WEIGHTS_NAME]


def test_no_network_says_what_to_do(server):
    for answer in (urllib.error.URLError("Name or service not known"), TimeoutError("timed out")):
        server.answer = answer
        with pytest.raises(UserError, match="--inception_weights PATH") as error:
            load_inception(None)
        assert "\n" not in str(error.value)
        assert inception_weights.WEIGHTS_URL in str(error.value)
        assert not list(server.cache.iterdir())


def test_wrong_checksum(server):
    server.answer = b"half of the file"
    with pytest.raises(UserError, match="incomplete or changed: 16 bytes"):
        load_inception(None)
    assert not list(server.cache.iterdir())
    (server.cache / inception_weights.WEIGHTS_NAME).write_bytes(b"broken in the cache")
    with pytest.raises(UserError, match="incomplete or changed"):
        load_inception(None)


# ------------------------------------------------------------------------------------------- resize


@pytest.mark.parametrize("shape", [(32, 48), (299, 299), (320, 300), (700, 17)])
def test_clean_resize_is_pillows(shape):
    images = np.random.default_rng(0).integers(0, 256, (1, *shape, 3), np.uint8)
    ours = np.asarray(resize(images, 299, "clean"))[0]
    for channel in range(3):
        image = Image.fromarray(images[0, :, :, channel].astype(np.float32))  # mode F
        theirs = np.asarray(image.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
        np.testing.assert_allclose(ours[:, :, channel], theirs, atol=2e-4)


@pytest.mark.parametrize(
    "mode, position",
    [("tf", lambda i, n: i * n / 299), ("pytorch", lambda i, n: max((i + 0.5) * n / 299 - 0.5, 0))],
)
@pytest.mark.parametrize("shape", [(32, 48), (400, 299)])
def test_bilinear_resize_is_the_naive_one(mode, position, shape):
    images = np.random.default_rng(0).integers(0, 256, (1, *shape, 1), np.uint8)

    def value(x, at):  # linear between the pixels around `at`, the last one repeated
        low = min(int(at), len(x) - 1)
        return x[low] + (at - low) * (x[min(low + 1, len(x) - 1)] - x[low])

    x = images[0, :, :, 0].astype(np.float64)
    x = np.stack([value(x, position(i, shape[0])) for i in range(299)])
    x = np.stack([value(x.T, position(i, shape[1])) for i in range(299)], 1)
    np.testing.assert_allclose(resize(images, 299, mode)[0, :, :, 0], x, atol=1e-3)


@pytest.mark.parametrize("mode, white", [("tf", 127 / 128), ("clean", 127 / 128), ("pytorch", 1)])
def test_range_of_the_input(mode, white):
    """pytorch-fid scales to [-1, 1]; the others, as TensorFlow's graph, take (x - 128) / 128."""
    images = np.stack([np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)])
    black_input, white_input = (np.asarray(prepare(images, mode)) - 128) / 128
    np.testing.assert_allclose(black_input, -1, atol=1e-6)
    np.testing.assert_allclose(white_input, white, atol=1e-6)


def test_unknown_resize():
    with pytest.raises(UserError, match="tf, pytorch, clean"):
        resize(np.zeros((1, 8, 8, 3), np.uint8), 299, "lanczos")
