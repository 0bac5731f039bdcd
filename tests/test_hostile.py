"""Reference files that come from anyone: each bad one is one line, and nothing in it runs.

The files are made here, byte by byte where NumPy would not write them.
"""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from evaluation.labels import read_labels
from metrics.fid import frechet_distance
from metrics.inception_weights import read_tensors as read_inception
from metrics.statistics import read_statistics
from utils.errors import UserError
from utils.weight_files.tensors import read_tensors

RANDOM = np.random.default_rng(0).normal(size=(30, 4))
MU, SIGMA = RANDOM.mean(0), np.cov(RANDOM.T)


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    """Returns the bytes of an .npy."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def with_header(text: str, content: bytes = b"") -> bytes:
    """Returns the bytes of an .npy with any header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + content


def archive(sigma: bytes, name: str = "sigma.npy", method: int = zipfile.ZIP_STORED) -> bytes:
    """Returns the bytes of an .npz with a good mu, and any member for sigma."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        target.writestr("mu.npy", npy(MU))
        target.writestr(name, sigma, method)
    return file.getvalue()


def patch(raw: bytes, offset: int, value: int) -> bytes:
    """Returns an archive with 16 bits of the last member's two records changed.

    offset: of the bits in the local record; they are two bytes further in the central one.
    """
    changed = bytearray(raw)
    for signature, extra in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        struct.pack_into("<H", changed, raw.rindex(signature) + offset + extra, value)
    return bytes(changed)


class Evil:
    """Its pickle makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


GOOD = npy(SIGMA)
TERABYTES = "{'descr': '<f8', 'fortran_order': False, 'shape': (741456, 741456)}"
HOSTILE_NPZ = {
    "no magic": (lambda: archive(b"sigma" * 20), "magic"),
    "no header": (lambda: archive(with_header("{'descr': open('x')}")), "malformed"),
    "deep header": (lambda: archive(with_header("(" * 9000)), "sigma.npy"),
    "strange header": (lambda: archive(with_header("{'descr': '<f8'}")), "keys"),
    "4 TiB": (lambda: archive(with_header(TERABYTES)), "there are"),
    "negative": (lambda: archive(with_header(TERABYTES.replace("(7", "(-7"))), "sigma.npy"),
    "too short": (lambda: archive(GOOD[:-8]), "there are"),
    "encrypted": (lambda: patch(archive(GOOD), 6, 1), "encrypted"),
    "unknown compression": (lambda: patch(archive(GOOD), 8, 99), "compressed in the way 99"),
    "bzip2": (lambda: archive(GOOD, method=zipfile.ZIP_BZIP2), "compressed in the way 12"),
    "path": (lambda: archive(GOOD, "../../sigma.npy"), "is a path"),
    "absolute path": (lambda: archive(GOOD, "/etc/sigma.npy"), "is a path"),
    "bomb": (lambda: archive(bytes(80 << 20), method=zipfile.ZIP_DEFLATED), "would become"),
    "structure": (lambda: archive(npy(np.zeros(4, "f8,f4"))), "expected"),
}


@pytest.mark.parametrize("name", HOSTILE_NPZ)
def test_hostile_npz(name, tmp_path):
    """All readers of .npz refuse it in one line, and allocate nothing."""
    make, words = HOSTILE_NPZ[name]
    path = tmp_path / "reference.npz"
    path.write_bytes(make())
    tracemalloc.start()
    with pytest.raises(UserError, match=words) as error:
        read_statistics(path)
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 4 << 20
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    if name != "structure":  # it is an array, though no covariance
        for read in (read_tensors, read_inception):
            with pytest.raises(UserError, match=words):
                read(path)


def test_objects_are_not_built(tmp_path):
    folder = tmp_path / "made"
    objects = np.array([Evil(folder)], object)
    (tmp_path / "s.npz").write_bytes(archive(npy(objects, allow_pickle=True)))
    (tmp_path / "y.npy").write_bytes(npy(objects, allow_pickle=True))
    with pytest.raises(UserError, match="it holds Python objects"):
        read_statistics(tmp_path / "s.npz")
    with pytest.raises(UserError, match="it holds Python objects"):
        read_labels(str(tmp_path / "y.npy"))
    assert not folder.exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_honest_files_are_read(save, tmp_path):
    """Compressed ones too, even where they are almost empty."""
    names = {"avg_mu": MU + 1, "avg_sigma": SIGMA * 2, "mu": MU, "sigma": SIGMA}  # FD-loss
    save(tmp_path / "s.npz", zeros=np.zeros((1000, 1000)), **names)
    evidence = read_statistics(tmp_path / "s.npz").evidence
    assert np.array_equal(evidence.mu, MU) and np.array_equal(evidence.sigma, SIGMA)


# ---------------------------------------------------------------- what is no covariance


@pytest.mark.parametrize(
    "sigma, words",
    [
        (-SIGMA, "not negative"),
        (np.diag([1.0, 1, 1, -0.1]), "not negative"),
        (SIGMA + 0.1j, "complex128; expected real"),
        (np.triu(SIGMA) + 1, "not symmetric"),
        (np.full((4, 4), "1"), "expected real"),
    ],
    ids=["negative", "one direction", "complex", "not symmetric", "text"],
)
def test_no_covariance(sigma, words, tmp_path):
    np.savez(tmp_path / "s.npz", mu=MU, sigma=sigma)
    (tmp_path / "s.pkl").write_bytes(pickle.dumps({"fid": {"mu": MU, "sigma": sigma}}))
    with pytest.raises(UserError, match=words):
        read_statistics(tmp_path / "s.npz")
    with pytest.raises(UserError, match=f"{words}|expected numbers|no pickle of plain arrays"):
        read_statistics(tmp_path / "s.pkl")
    with pytest.raises(UserError, match=words):
        frechet_distance(MU, SIGMA, MU, sigma)


def test_a_covariance_of_low_rank_stays_one(tmp_path):
    """In float32, rounding makes some of its eigenvalues negative."""
    x = np.random.default_rng(1).normal(size=(50, 300))
    sigma = np.cov(x.T).astype(np.float32)
    assert np.linalg.eigvalsh(sigma)[0] < 0
    np.savez(tmp_path / "s.npz", mu=x.mean(0), sigma=sigma)
    assert read_statistics(tmp_path / "s.npz") is not None


# ---------------------------------------------------------------- pickles


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_edm2_statistics(protocol, tmp_path):
    """Their layout: the number of images, and mean and covariance for each network."""
    of_dinov2 = {"mu": MU * 2, "sigma": np.asfortranarray(SIGMA * 2)}
    holds = {"num_images": 30, "fid": {"mu": MU, "sigma": SIGMA}, "fd_dinov2": of_dinov2}
    (tmp_path / "img64.pkl").write_bytes(pickle.dumps(holds, protocol))
    inception = read_statistics(tmp_path / "img64.pkl").evidence
    assert inception.count == 30 and np.array_equal(inception.mu, MU)
    assert np.array_equal(inception.sigma, SIGMA)
    dinov2 = read_statistics(tmp_path / "img64.pkl", "dinov2").evidence
    assert np.array_equal(dinov2.mu, MU * 2) and np.array_equal(dinov2.sigma, SIGMA * 2)
    with pytest.raises(UserError, match="holds num_images, fid, fd_dinov2; expected {pixels"):
        read_statistics(tmp_path / "img64.pkl", "pixels")


def stylegan(**changes) -> dict:
    """Returns what StyleGAN keeps of real images: the attributes of its sums of features."""
    known = {"capture_all": False, "capture_mean_cov": True, "max_items": None, "num_items": 30}
    known |= {"num_features": 4, "all_features": None}
    return known | {"raw_mean": RANDOM.sum(0), "raw_cov": RANDOM.T @ RANDOM} | changes


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_stylegan_statistics(protocol, tmp_path):
    """Its covariance is divided by N."""
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(stylegan(), protocol))
    evidence = read_statistics(tmp_path / "s.pkl").evidence
    assert evidence.count == 30 and evidence.mu == pytest.approx(MU, rel=1e-12)
    assert evidence.sigma == pytest.approx(np.cov(RANDOM.T, ddof=0), rel=1e-10, abs=1e-12)


ORDERED = b"\x80\x04ccollections\nOrderedDict\n]"


def cut(holds: dict) -> bytes:
    return pickle.dumps(holds)[:-30]


def longer(holds: dict) -> bytes:
    """The array's shape says more than its bytes."""
    return pickle.dumps(holds).replace(b"K\x04K\x04\x86", b"K\x04K\xff\x86")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda holds: pickle.dumps(holds | {"x": np.array([None])}), "expected numbers"),
        (cut, "no pickle of plain arrays"),
        (longer, "need"),
        (lambda holds: b"", "no pickle of plain arrays"),
        (lambda holds: b"\x80\x04r\xff\xff\xff\x7f.", "reserves"),
        (lambda holds: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 42) + b".", "no pickle"),
        (lambda holds: pickle.dumps([1, 2]), "holds a list"),
        (lambda holds: pickle.dumps({"a\nb": 1, 10**5000: 2}), "holds 2 without a plain name"),
        (lambda holds: pickle.dumps({"raw_mean": 1, "x" * 900: 2}), "holds raw_mean and 1 more"),
        (lambda holds: pickle.dumps(stylegan(raw_mean=None)), "give the file of its fid metric"),
        (lambda holds: pickle.dumps(stylegan(num_items=10**400)), "num_items is no number"),
        (lambda holds: pickle.dumps(stylegan(raw_mean=np.zeros(10**5))), r"expected \[D\]"),
        (lambda holds: pickle.dumps(stylegan(raw_mean=np.full(4, 300.0))), "not negative"),
        (lambda holds: pickle.dumps({"fid": {"mu": 1, "sigma": 2}}), "lacks the arrays"),
        (lambda holds: b"cnumpy\nndarray\n}(Vx\nI1\nubK\x01.", "no pickle"),
        (lambda holds: b"\x80\x04})" + b"\x85" * 10**6 + b"K\x01s.", "a key is a tuple"),
        (lambda holds: b"\x80\x04}()" + b"2\x86" * 80 + b"K\x01u.", "a key is a tuple"),
        (lambda holds: b"\x80\x04()" + b"2\x86" * 80 + b"K\x01d.", "a key is a tuple"),
        (lambda holds: ORDERED + b")" + b"2\x86" * 80 + b"K\x01\x86a\x85R.", "a key is a tuple"),
        (lambda holds: b"\x80\x04\x8f()" + b"2\x86" * 80 + b"\x90.", "it has a set"),
    ],
    ids=[
        "objects",
        "cut",
        "longer",
        "empty",
        "memo",
        "4 TiB",
        "list",
        "strange names",
        "a long name",
        "features alone",
        "a huge count",
        "74 GiB",
        "a false mean",
        "numbers",
        "attributes",
        "a deep key",
        "a wide key",
        "a wide key of pairs",
        "a wide key of an OrderedDict",
        "a wide member",
    ],
)
def test_hostile_pickles(make, words, tmp_path):
    path = tmp_path / "s.pkl"
    path.write_bytes(make({"fid": {"mu": MU, "sigma": SIGMA}}))
    with pytest.raises(UserError, match=words) as error:
        read_statistics(path)
    assert "\n" not in str(error.value)


def test_code_in_a_pickle_does_not_run(tmp_path):
    folder = tmp_path / "made"
    holds = {"fid": {"mu": MU, "sigma": SIGMA}, "extra": Evil(folder)}
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(holds))
    with pytest.raises(UserError, match="asks for posix.mkdir, which is no array; it was not run"):
        read_statistics(tmp_path / "s.pkl")
    assert not folder.exists()
