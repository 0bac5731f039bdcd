"""Scores generated images against real ones; the last line of output is JSON with all settings.

    python eval_fid.py --load_dir runs/cifar10                          the newest checkpoint, 50,000 samples: a FID
    python eval_fid.py --load_dir runs/cifar10 --all --cfg_scale 1,1.5,2    every checkpoint that fid.csv does not have yet, three alphas
    python eval_fid.py --load_dir runs/cifar10 --cfg_scale search:1,4   the best alpha, by golden section
    python eval_fid.py --load_dir samples.npz --fid_stats stats.npz     images that are there already: an .npz or a folder

--load_dir: a run, a published artifact (or hf://NAME), a folder of images, or an .npz of images. --fid_stats: statistics in any of the usual formats, or images; without
it the data set's own images are the reference. Rows go to fid.csv in the run folder, or in --out. Images below 32 pixels or without colour are scored in
pixels unless --features says otherwise: `fd_pixels` is a Frechet distance between pixels, not an FID. docs/evaluation.md has the traps.
"""

import dataclasses
import json
import logging
import math
import pathlib
import time
from collections.abc import Callable

import jax
import numpy as np

import data
from configs.default import DISTRIBUTED, Key
from data import pipeline
from metrics import networks
from metrics.class_agreement import fit_classifier
from metrics.collect import Evidence, collect, replicated, to_float
from metrics.neighbours import nearest
from metrics.networks import Network
from metrics.resize import MODES
from metrics.statistics import check_provenance, read_statistics
from metrics.table import METRICS
from models.sampling import generate
from utils import config as config_lib, distributed, processes
from utils.errors import UserError
from utils.figures import save_grid, to_uint8
from utils.image_files import Images, batches, read_images, read_npz, write_npz
from utils.logging import setup_logging
from utils.scores import append_row, distance, draw_curves, read_rows, same_settings, scores

log = logging.getLogger("eval")
CLASSIFIER_LIMIT = 20_000  # training samples up to which a classifier on raw pixels, or a gallery of another split, is worth its time
WHILE_TRAINING = 5_000  # samples
SHOWN, NEIGHBOURS = 64, 7  # preview: samples; memorisation check: real images beside each of the first ten

FLAGS = (
    Key("step", 0, "checkpoint to score; 0 = the newest", "[0, inf)"),
    Key("all", False, "score every checkpoint of the run that fid.csv does not have yet"),
    Key("ema", "", "parameters: a decay that the run keeps, raw, or empty for the run's first decay"),
    Key("cfg_scale", "1.0", "guidance scale alpha: one, a comma list, or search:LOW,HIGH"),
    Key("num_samples", 0, "samples to generate; 0 = 50,000, in pixels as many as the held-out split has", "[0, inf)"),
    Key("metrics", "", f"of {', '.join(METRICS)}, separated by commas; empty = the usual ones"),
    Key("resize", "", f"how Inception's input is resized: {', '.join(MODES)}; empty = tf, the standard"),
    Key("reference_split", "", "split of the data set to score against; empty = train, in pixels test"),
    Key("labels", "", "labels of the samples: uniform, reference, or a file (.npz, .npy, .txt); empty = reference where it has labels"),
    Key("sample_batch_size", 256, "samples per call of the generator and of the network; it does not change the result", "[1, inf)"),
    Key("out", "", "folder of fid.csv and the pictures; empty = the run folder, otherwise none are written"),
    Key("samples_npz", "", "also write the (last) samples here, as ADM's evaluation reads them: arr_0 images, arr_1 labels"),
    *DISTRIBUTED,
)


# ---------------------------------------------------------------- the feature networks

def dinov2(source: str, resize_mode: str) -> Network:
    """The class token of DINOv2, 224 x 224 (FD-DINOv2: Stein et al. 2023, arXiv 2306.04675, who use the large one)."""
    from models.encoders import load_encoder

    if resize_mode:
        raise UserError(f"--resize {resize_mode}: DINOv2 has one way, Pillow's bicubic to 224; leave it out")
    encode, params, _ = load_encoder(f"dinov2:{source or 'large'}", names=("cls",), statistics=("map",), patch_sizes=())
    weights = networks.sha256(source) if pathlib.Path(source).is_file() else source or "large"
    return networks.encoder("dinov2", encode, params, "cls", 224, weights)


NETWORKS = {"inception": networks.inception, "dinov2": dinov2, "pixels": networks.pixels}


def load_network(features: str, resize: str, inception_weights: str) -> Network:
    """The network of --features, NAME or NAME:SOURCE, with its weights."""
    name, _, source = features.partition(":")
    if name not in NETWORKS:
        raise UserError(f"--features {features}: unknown network{config_lib.near(name, NETWORKS)} (known: {', '.join(NETWORKS)})")
    if resize and resize not in MODES:
        raise UserError(f"--resize {resize}: expected one of {', '.join(MODES)}")
    network = NETWORKS[name](source or (inception_weights if name == "inception" else ""), resize)
    if network.facts["weights"] != networks.WEIGHTS_SHA256[:16] and name == "inception":
        log.warning("the Inception weights %s are not the standard ones: scores do not compare with published figures", network.facts["weights"])
    return network


def default_network(shape: tuple[int, ...]) -> str:
    """By the images: Inception for RGB from 32 pixels on."""
    return "inception" if shape[-1] == 3 and min(shape[:2]) >= networks.SMALLEST else "pixels"


# ---------------------------------------------------------------- the reference

@dataclasses.dataclass(frozen=True)
class Reference:
    """What samples are held against. labels [S] and gallery (features [S,D], index -> image) where the real images are at hand; classifier: of raw pixels, or None."""

    name: str
    network: Network
    real: Evidence
    metrics: tuple[str, ...]
    labels: np.ndarray | None
    classifier: object
    gallery: tuple[np.ndarray, Callable] | None

    @property
    def usual_count(self) -> int:
        """Samples to generate when nothing is said."""
        return networks.STANDARD_COUNT if self.network.counted else self.real.count


def load_reference(dataset_name: str, *, features: str = "", resize: str = "", inception_weights: str = "", fid_stats: str = "", split: str = "", metrics: str = "",
                   data_options=None, shape: tuple[int, ...] | None = None, batch_size: int = 256, sharding=None) -> Reference:  # fmt: skip
    """The reference of a data set ("" = none), or of `fid_stats`. shape: of the samples, where it is known before the data set is read. The rest: as the flags."""
    shape = shape or (data.load(dataset_name, "test", data_options).shape if dataset_name else None)
    network = load_network(features or (default_network(shape) if shape else "inception"), resize, inception_weights)
    wanted = parse_metrics(metrics)
    keep = any(METRICS[m].needs == "features" for m in wanted) if wanted else True
    run = lambda images: collect(network, batches(images, processes.share(len(images)), batch_size), batch_size, keep, sharding)
    labels = classifier = gallery = None
    if fid_stats:
        name, statistics = fid_stats, None if pathlib.Path(fid_stats).expanduser().is_dir() else read_statistics(fid_stats)
        if statistics is None:
            images = read_images(fid_stats)
            real, labels = run(images), images.labels
            gallery = (real.features, images.__getitem__) if keep else None
        else:
            expected = network.facts | ({"dataset_name": dataset_name} if dataset_name else {}) | ({"image_shape": list(shape)} if shape else {})
            check_provenance(fid_stats, statistics, expected, feature_count(network, shape))
            real, origin = statistics.evidence, statistics.provenance
            if real.features is not None and "split" in origin:  # the images are at hand too
                gallery = (real.features, DatasetImages(data.load(origin["dataset_name"], origin["split"])).__getitem__)
    elif dataset_name:
        split = split or ("train" if network.counted else "test")
        name, dataset = f"{dataset_name}:{split}", check_pixels(data.load(dataset_name, split, data_options))
        real, labels = run(DatasetImages(dataset)), dataset_labels(dataset)
        train = data.load(dataset_name, "train", data_options)
        gallery = (real.features, DatasetImages(dataset).__getitem__) if keep and split == "train" else None
        if not network.counted and len(train.source) <= CLASSIFIER_LIMIT:
            x, y = pipeline.everything(train)
            flat = to_float(x).reshape(len(x), -1)
            gallery = (flat, x.__getitem__)
            classifier = fit_classifier(flat, y) if train.n_classes > 1 else None
    else:
        raise UserError("nothing to compare with: give --fid_stats, or --dataset_name")
    return Reference(name, network, real, choose_metrics(wanted, network, real, classifier), labels, classifier, gallery)


def parse_metrics(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, text.split(",")))
    for name in names:
        if name not in METRICS:
            raise UserError(f"--metrics {name}: unknown metric{config_lib.near(name, METRICS)} (known: {', '.join(METRICS)})")
    return names


def choose_metrics(wanted, network, real, classifier) -> tuple[str, ...]:
    """The wanted metrics, all possible; or the usual ones that are."""
    have = {"moments": True, "logits": network.name == "inception", "features": real.features is not None, "classifier": classifier is not None}
    missing = next((m for m in wanted if not have[METRICS[m].needs]), None)
    if missing:
        raise UserError(f"--metrics {missing}: it needs {METRICS[missing].needs}, which {network.name} with this reference does not give; leave it out, or give images as the reference")
    usual = ("fid", "inception_score", "precision_recall", "class_agreement")
    return wanted or tuple(m for m in usual if have[METRICS[m].needs])


def feature_count(network: Network, shape) -> int:
    """D of the network's features."""
    if network.params is None:
        return math.prod(shape) if shape else 0
    image = jax.ShapeDtypeStruct((1, *(shape or (32, 32, 3))), np.uint8)
    return jax.eval_shape(network.features, network.params, image)["features"].shape[1]


def check_pixels(dataset):
    if dataset.dtype != "uint8":
        raise UserError(f"--dataset_name {dataset.name} holds latents, which the networks do not take; give --fid_stats of its images")
    return dataset


class DatasetImages:
    """The images of a data set by index."""

    def __init__(self, dataset):
        self.source, self.name = dataset.source, dataset.name

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        return self.source[i]["image"]


def dataset_labels(dataset) -> np.ndarray:
    return np.array([dataset.source[i]["label"] for i in range(len(dataset.source))], np.int32)


# ---------------------------------------------------------------- one evaluation

def evaluate(model, params, reference: Reference, *, cfg_scale: float, seed: int, num_samples: int = 0, batch_size: int = 256, sharding=None,
             labels: str = "", see: Callable = lambda images: None) -> dict:  # fmt: skip
    """Scores of one set of parameters, with their settings. The trainer calls it too.

    num_samples: 0 = the usual count. sharding: over this process's devices; it must divide batch_size. labels: as the flag. see(images): is shown every batch.
    Sample i depends on (seed, i) and its label alone: batches, devices and processes do not change it.
    """
    n = num_samples or reference.usual_count
    if n < 2 * jax.process_count():
        raise UserError(f"--num_samples {n}: too few to score; give at least {2 * jax.process_count()}")
    y, kind = choose_labels(labels, reference, n, model.num_classes)
    mine = processes.share(n)
    batch_size = min(batch_size, round_up(len(mine), sharding.mesh.size if sharding else 1))
    clock = Clock(generate(model, params, y[mine.start : mine.stop], cfg_scale, seed, first=mine.start, batch_size=batch_size, sharding=sharding), see)
    row = score(clock, reference, y, batch_size, sharding)
    log.info("%d samples: %s", n, clock.report(len(mine)))
    return row | {"labels": kind}


def score(images, reference: Reference, labels, batch_size: int, sharding) -> dict:
    """Scores of a stream of batches, this process's share."""
    network = reference.network
    keep = any(METRICS[m].needs in ("features", "classifier") for m in reference.metrics)
    fake = collect(network, images, batch_size, keep, sharding)
    found = {}
    for metric in reference.metrics:
        found |= METRICS[metric].compute(fake, reference.real, reference.classifier, labels)
    settings = {"num_samples": fake.count, "features": network.name, "resize": network.facts["resize"], "weights": network.facts["weights"], "reference": reference.name,
                "reference_count": reference.real.count}  # fmt: skip
    return settings | {network.score_name(k, fake.count): float(v) for k, v in found.items()}


def sanity_check(model, params, reference: Reference, **settings) -> None:
    """All of an evaluation on a few samples, its scores thrown away: what cannot work fails now, not at the first evaluation."""
    logging.disable(logging.WARNING)  # of the few samples
    try:
        evaluate(model, params, reference, num_samples=32 * jax.process_count(), **settings)
    finally:
        logging.disable(logging.NOTSET)


class Clock:
    """Passes batches on, shows them to `see`, and takes the time: of the generator, of what happens between batches (features), and of the rest (metrics)."""

    def __init__(self, stream, see):
        self.stream, self.see, self.start, self.waited = stream, see, time.perf_counter(), 0.0

    def __iter__(self):
        while True:
            before = time.perf_counter()
            batch = next(self.stream, None)
            self.waited += time.perf_counter() - before
            self.end = time.perf_counter()
            if batch is None:
                return
            self.see(batch)
            yield batch

    def report(self, n: int) -> str:
        total, features = time.perf_counter() - self.start, self.end - self.start - self.waited
        return (f"{total:.1f} s with compilation; generation {n / self.waited:,.0f}/s, {self.waited / total:.0%} of the time; features {n / features:,.0f}/s, "
                f"{features / total:.0%}; metrics {total - self.waited - features:.1f} s")  # fmt: skip


def choose_labels(kind: str, reference: Reference, n: int, n_classes: int) -> tuple[np.ndarray, str]:
    """(labels [n], what they are). Those of a reference or a file are repeated if they are fewer."""
    kind = kind or ("uniform" if reference.labels is None else "reference")
    if kind == "uniform":
        given = np.arange(n_classes)
    elif kind == "reference":
        if reference.labels is None:
            raise UserError(f"--labels reference: {reference.name} has no labels; give uniform, or a file")
        given = reference.labels
    else:
        given = read_labels(kind)
    if given.min() < 0 or given.max() >= n_classes:
        raise UserError(f"--labels {kind}: labels {given.min()} to {given.max()}, but the generator knows 0 to {n_classes - 1}")
    labels = given[np.arange(n) % len(given)].astype(np.int32)
    missing = n_classes - len(np.unique(labels))
    if missing:
        log.warning("%d of %d classes are not among the labels of the %d samples: the scores are those of a part of the data", missing, n_classes, n)
    return labels, kind


def read_labels(path: str) -> np.ndarray:
    """Integers of a .npy, of an .npz (arr_1, or its only array), or of a text file."""
    try:
        if path.endswith(".npz"):
            arrays = read_npz(path)
            given = arrays.get("arr_1", next(iter(arrays.values())))
        else:
            given = np.load(path, allow_pickle=False) if path.endswith(".npy") else np.loadtxt(path, dtype=np.int64, ndmin=1)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"--labels {path}: expected uniform, reference, or a file of integers ({' '.join(str(error).split())[:100]})") from None
    if given.ndim != 1 or not len(given) or not np.issubdtype(given.dtype, np.integer):
        raise UserError(f"--labels {path}: {given.dtype} {list(given.shape)}; expected a list of integers")
    return given


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


# ---------------------------------------------------------------- several: checkpoints and alphas

def parse_alphas(text: str) -> tuple[list[float], tuple[float, float] | None]:
    """(alphas, None) of "1" or "1,1.5,2"; ([], (low, high)) of "search:1,4"."""
    search = text.startswith("search")
    try:
        numbers = [float(word) for word in (text.partition(":")[2] or "1,4" if search else text).split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(1 <= a < math.inf for a in numbers) or (search and (len(numbers) != 2 or numbers[0] >= numbers[1])):
        raise UserError(f"--cfg_scale {text}: expected a number from 1 on, several separated by commas, or search:LOW,HIGH")
    return ([], tuple(numbers)) if search else (list(dict.fromkeys(numbers)), None)


def golden_section(function: Callable[[float], float], low: float, high: float, tolerance: float = 0.05) -> float:
    """Where a function with one valley is least, to the tolerance, on a grid of 0.01."""
    ratio = (math.sqrt(5) - 1) / 2
    at = lambda x: (function(round(x, 2)), round(x, 2))
    a, b = low, high
    left, right = at(b - ratio * (b - a)), at(a + ratio * (b - a))
    while b - a > tolerance:
        if left < right:
            b, right = right[1], left
            left = at(b - ratio * (b - a))
        else:
            a, left = left[1], right
            right = at(a + ratio * (b - a))
    return min(left, right, at(low))[1]


class Preview:
    """Keeps the first samples, or all of them, as they go by."""

    def __init__(self, most: int | None):
        self.most, self.parts = most, []

    def __call__(self, images):
        room = len(images) if self.most is None else self.most - sum(map(len, self.parts))
        if room > 0 and np.isfinite(images).all():
            self.parts.append(to_uint8(images[:room]))

    @property
    def images(self) -> np.ndarray:
        return np.concatenate(self.parts)


def draw_samples(folder: pathlib.Path, name: str, images: np.ndarray, reference: Reference) -> list[pathlib.Path]:
    """A grid of the first samples, and ten of them beside their nearest real images."""
    drawn = [folder / f"{name}.png"]
    save_grid(drawn[0], images[:SHOWN], columns=8)
    if reference.gallery is not None and reference.gallery[0] is not None and images.shape[1:] == reference.gallery[1](0).shape:
        features, image = reference.gallery
        queries = images[:10]
        if reference.network.params is None:
            found = to_float(queries).reshape(len(queries), -1)
        else:
            found = np.asarray(reference.network.features(reference.network.params, queries)["features"])
        order, distances = nearest(found, features, min(NEIGHBOURS, len(features)))
        tiles = [tile for q, row in zip(queries, order) for tile in (q, *(image(int(i)) for i in row))]
        drawn.append(folder / f"{name}_neighbours.png")
        save_grid(drawn[1], np.stack(tiles), columns=1 + order.shape[1], row_labels=[f"nearest at {d[0]:.2f}" for d in distances], title="a sample, then the nearest real images")
    return drawn


def local_sharding():
    """Over all devices of this process."""
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("data",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))


# ---------------------------------------------------------------- the program

def main(flag_values):
    setup_logging()
    flags = config_lib.all_flags(flag_values)
    with distributed.job(flags.distributed):
        evaluate_command(flags, config_lib.given_flags(flag_values))


def evaluate_command(flags, given):
    from models.runs import is_run

    where = flags.load_dir
    if flags.samples_npz and jax.process_count() > 1:
        raise UserError(f"--samples_npz: {jax.process_count()} processes hold the samples in parts; run it in one process")
    if not where:
        raise UserError("--load_dir is missing: give a run, a published artifact, a folder of images, or an .npz, for example --load_dir runs/digits")
    folder, run = pathlib.Path(where), None
    if is_run(where):
        run = config_lib.from_json(folder / "config.json")
    elif not where.startswith("hf://") and not folder.exists():
        raise UserError(f"--load_dir {where}: no such file or folder; give a run, a published artifact, a folder of images, or an .npz")
    is_generator = run or where.startswith("hf://") or (folder / "metadata.json").is_file()
    alphas, interval = parse_alphas(flags.cfg_scale)
    setting = lambda name: given.get(name, run[name] if run else flags[name])
    dataset_name = given.get("dataset_name", run.dataset_name if run else "")
    sharding = local_sharding()
    batch_size = round_up(flags.sample_batch_size, sharding.mesh.size)
    options = dict(features=setting("features"), inception_weights=setting("inception_weights"), fid_stats=setting("fid_stats"), resize=flags.resize,
                   split=flags.reference_split, metrics=flags.metrics, data_options=run.data if run else None, batch_size=batch_size, sharding=sharding)  # fmt: skip
    out = pathlib.Path(flags.out) if flags.out else folder if run else None
    if not is_generator:
        row = score_images(folder, dataset_name, options)
    else:
        row = score_generator(flags, run, out, dataset_name, options, alphas, interval)
    row |= {"load_dir": where, "dataset_name": dataset_name, "processes": jax.process_count(), "devices": jax.device_count()}
    if processes.is_first():
        print(json.dumps(row))


def score_images(path, dataset_name, options) -> dict:
    """One row for images that are there already."""
    images = read_images(path)
    options = options | {"metrics": options["metrics"], "shape": images.shape}
    reference = load_reference(dataset_name, **options)
    mine = processes.share(len(images))
    row = score(batches(images, mine, options["batch_size"]), without_classifier(reference), None, options["batch_size"], options["sharding"])
    log.info("%s: %s", path, ", ".join(f"{k} {v:.3f}" for k, v in scores(row).items()))
    return row


def without_classifier(reference: Reference) -> Reference:
    """Class agreement is of labels that were asked for; images have none."""
    return dataclasses.replace(reference, metrics=tuple(m for m in reference.metrics if METRICS[m].needs != "classifier"))


def score_generator(flags, run, out, dataset_name, options, alphas, interval) -> dict:
    """A row of fid.csv for each checkpoint and alpha; returns the last, or the best of a search."""
    from models.runs import load_run
    from models.weights import load_generator
    from utils.checkpoint import Checkpoints

    if not run and (flags.step or flags.ema or flags.all):
        raise UserError(f"--step, --ema, --all: {flags.load_dir} is an artifact with one set of parameters; leave them out")
    steps = Checkpoints(pathlib.Path(flags.load_dir) / "checkpoints").steps() if flags.all else [flags.step or None]
    if not steps:
        raise UserError(f"--all: no checkpoint in {flags.load_dir}; give the folder of a run that has saved one")
    reference, row, image_rows = None, {}, []
    for step in steps:
        if run:
            model, params, metadata = load_run(flags.load_dir, step, flags.ema)
        else:
            model, params, metadata = load_generator(flags.load_dir)
        if model.sample_shape[-1] not in (1, 3):
            raise UserError(f"{flags.load_dir} generates latents of {list(model.sample_shape)}; scoring them needs a decoder, which eval_fid.py does not have")
        reference = reference or load_reference(dataset_name, shape=tuple(model.sample_shape), **options)
        params = jax.device_put(params, replicated(options["sharding"]))
        preview = None

        def at(alpha):
            nonlocal preview, row
            network = reference.network
            n = flags.num_samples or reference.usual_count
            kind = flags.labels or ("uniform" if reference.labels is None else "reference")
            settings = {"step": metadata.get("step", 0), "ema": str(metadata.get("ema", "")), "cfg_scale": alpha, "seed": flags.seed, "num_samples": n,
                        "features": network.name, "resize": network.facts["resize"], "weights": network.facts["weights"], "reference": reference.name, "labels": kind}  # fmt: skip
            done = next((r for r in read_rows(out / "fid.csv") if same_settings(r, settings)), None) if out and (flags.all or interval) else None
            done = done and len(scores(done)) >= len(reference.metrics) and done
            if all(map(np.all, processes.gather(np.array([bool(done)])))):  # one that sees no fid.csv would evaluate alone
                log.info("step %d, alpha %g: in fid.csv already", settings["step"], alpha)
                row = done
                return row
            preview = Preview(None if flags.samples_npz else SHOWN)
            row = settings | evaluate(model, params, reference, cfg_scale=alpha, seed=flags.seed, num_samples=n, batch_size=options["batch_size"],
                                      sharding=options["sharding"], labels=flags.labels, see=preview)  # fmt: skip
            if out and processes.is_first():
                append_row(out / "fid.csv", row)
            log.info("step %d, alpha %g: %s", row["step"], alpha, ", ".join(f"{k} {v:.3f}" for k, v in scores(row).items()))
            return row

        if interval:
            if not distance(at(interval[0])):
                raise UserError("--cfg_scale search: it looks for the least Frechet distance; add fid to --metrics")
            best = golden_section(lambda a: at(a)[distance(row)], *interval)
            row = at(best)
            log.info("step %d: best alpha %g, chosen on the figure that it is reported with", row["step"], best)
        else:
            for alpha in alphas:
                at(alpha)
        if preview and processes.is_first():
            if out:
                image_rows += draw_samples(out / "samples", f"eval_step_{row['step']:08d}", preview.images, reference)
            if flags.samples_npz:
                write_npz(flags.samples_npz, preview.images, choose_labels(flags.labels, reference, row["num_samples"], model.num_classes)[0])
    if out and processes.is_first():
        for path in [*image_rows, *draw_curves(out, row)]:
            log.info("%s", path)
    return row


if __name__ == "__main__":
    config_lib.define_flags(("load_dir", "seed", "dataset_name", "features", "inception_weights", "fid_stats"), FLAGS)
    config_lib.run_main(main)
