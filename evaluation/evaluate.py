"""The evaluation of generators and of images that are there already."""

import dataclasses
import functools
import json
import logging
import pathlib
from collections.abc import Callable

import jax
import numpy as np

import data
from baselines import flow
from configs.default import DISTRIBUTED, Key
from data import pipeline
from evaluation.image_files import batches, read_images, write_npz
from evaluation.labels import choose_labels, label_kind
from evaluation.pictures import draw_samples
from evaluation.reference import Reference, of_images, of_statistics, parse_metrics
from evaluation.scores import append_row, draw_curves, parameters, show
from evaluation.scoring import Clock, check_count, round_up, score
from evaluation.search import parse_alphas
from evaluation.sweep import score_alphas
from metrics import networks
from metrics.collect import replicated
from metrics.resize import MODES
from metrics.statistics import read_statistics
from metrics.table import METRICS
from models.latents import latent_space_of
from models.runs import describe_run, is_run, load_run
from models.sampling import generate
from models.weights import load_generator
from utils import config as config_lib
from utils import distributed, processes
from utils.checkpoint import Checkpoints
from utils.errors import UserError
from utils.logging import setup_logging, without_warnings
from utils.sharding import local_sharding
from utils.words import did_you_mean

log = logging.getLogger("eval")
CLASSIFIER_LIMIT = 20_000  # training samples up to which a classifier on raw pixels, or a gallery of another split, is worth its time
WHILE_TRAINING = 5_000  # samples

FLAGS = (
    Key("step", 0, "checkpoint to score; 0 = the newest", "[0, inf)"),
    Key("all", False, "score every checkpoint of the run that fid.csv does not have yet"),
    Key(
        "ema", "", "parameters: a decay that the run keeps, raw, or empty for the run's first decay"
    ),
    Key("cfg_scale", "1.0", "guidance scale alpha: one, a comma list, or search:LOW,HIGH"),
    Key("denoise_timesteps", 0, "Euler steps of a flow; 0 = those of its training", "[0, inf)"),
    Key(
        "num_samples",
        0,
        "samples to generate; 0 = 50,000, in pixels as many as the held-out split has",
        "[0, inf)",
    ),
    Key("metrics", "", f"of {', '.join(METRICS)}, separated by commas; empty = the usual ones"),
    Key(
        "resize",
        "",
        f"how Inception's input is resized: {', '.join(MODES)}; empty = tf, the standard",
    ),
    Key(
        "reference_split",
        "",
        "split of the data set to score against; empty = train, in pixels test",
    ),
    Key(
        "labels",
        "",
        "labels of the samples: uniform, reference, or a file (.npz, .npy, .txt); empty = reference where it has labels",
    ),
    Key(
        "sample_batch_size",
        256,
        "samples per call of the generator and of the network; it does not change the result",
        "[1, inf)",
    ),
    Key(
        "out",
        "",
        "folder of fid.csv and the pictures; empty = the run folder, otherwise none are written",
    ),
    Key(
        "samples_npz",
        "",
        "also write the (last) samples here, as ADM's evaluation reads them: arr_0 images, arr_1 labels",
    ),
    *DISTRIBUTED,
    config_lib.KEYS["vae"],
)
OF_GENERATORS = ("step", "all", "ema", "cfg_scale", "num_samples", "labels", "samples_npz", "seed")


# ---------------------------------------------------------------- networks and data: what evaluation/ is given


def dinov2(source: str, resize_mode: str) -> networks.Network:
    """The class token of DINOv2, 224 x 224 (FD-DINOv2: Stein et al. 2023, arXiv 2306.04675, who use the large one)."""
    from models.encoders import load_encoder

    if resize_mode:
        raise UserError(
            f"--resize {resize_mode}: DINOv2 has one way, Pillow's bicubic to 224; leave it out"
        )
    encode, params, _ = load_encoder(
        f"dinov2:{source or 'large'}", names=("cls",), statistics=("map",), patch_sizes=()
    )
    weights = networks.sha256(source) if pathlib.Path(source).is_file() else source or "large"
    return networks.encoder("dinov2", encode, params, "cls", 224, weights)


NETWORKS = {"inception": networks.inception, "dinov2": dinov2, "pixels": networks.pixels}


def load_network(features: str, resize: str, inception_weights: str) -> networks.Network:
    """The network of --features, NAME or NAME:SOURCE, with its weights."""
    name, _, source = features.partition(":")
    if name not in NETWORKS:
        raise UserError(
            f"--features {features}: unknown network{did_you_mean(name, NETWORKS)} (known: {', '.join(NETWORKS)})"
        )
    if resize and resize not in MODES:
        raise UserError(f"--resize {resize}: expected one of {', '.join(MODES)}")
    network = NETWORKS[name](source or (inception_weights if name == "inception" else ""), resize)
    if name == "inception" and network.facts["weights"] != networks.WEIGHTS_SHA256[:16]:
        log.warning(
            "the Inception weights %s are not the standard ones: scores do not compare with published figures",
            network.facts["weights"],
        )
    return network


class DatasetImages:
    """The images of a data set by index, None for one that cannot be read. Labels are noted as images are read: a second reading would take as long as the first."""

    def __init__(self, dataset):
        if dataset.dtype != "uint8":
            raise UserError(
                f"--dataset_name {dataset.name} holds latents, which the networks do not take; give --fid_stats of its images"
            )
        self.source, self.name, self.shape = pipeline.Readable(dataset), dataset.name, dataset.shape
        self.labels = np.full(len(self.source), -1, np.int32)

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        sample = self.source.get(i)
        if sample is None:
            return None
        self.labels[i] = sample["label"]
        return sample["image"]


def data_options(given: dict, dataset_name: str, run=None):
    """The group `data` of the run, if it is of this data set, or of the recipe; with what the command line adds."""
    flags = {k: v for k, v in given.items() if k.startswith("data.")}
    base = (
        run.data
        if run and run.dataset_name == dataset_name
        else config_lib.resolve({"dataset_name": dataset_name}).data
    )
    return dict(base) | {k.removeprefix("data."): v for k, v in flags.items()}


def load_reference(
    dataset_name: str,
    *,
    features: str = "",
    resize: str = "",
    inception_weights: str = "",
    fid_stats: str = "",
    split: str = "",
    metrics: str = "",
    data_options=None,
    shape: tuple[int, ...] | None = None,
    batch_size: int = 256,
    sharding=None,
) -> Reference:
    """The reference of a data set ("" = none; of latents: the images that they encode), or of `fid_stats`. shape: of the samples, where it is known before the data set is read. The rest: as the flags."""
    if not dataset_name and not fid_stats:
        raise UserError("nothing to compare with: give --fid_stats, or --dataset_name")
    if dataset_name:
        dataset_name, data_options = data.origin(dataset_name, data_options)
    load = functools.cache(lambda split: data.load(dataset_name, split, data_options))
    file = (
        read_statistics(fid_stats)
        if fid_stats and not pathlib.Path(fid_stats).expanduser().is_dir()
        else None
    )
    images = read_images(fid_stats) if fid_stats and file is None else None
    if not shape:
        shape = images.shape if images else load("test").shape if dataset_name else None
    network = load_network(features or networks.default_network(shape), resize, inception_weights)
    wanted = parse_metrics(metrics)
    if file:
        origin = file.provenance
        at_hand = "split" in origin and origin.get("dataset_name") == dataset_name
        return of_statistics(
            fid_stats,
            file,
            network,
            wanted,
            dataset_name,
            shape,
            (lambda: DatasetImages(load(origin["split"]))) if at_hand else None,
        )
    if images:
        return of_images(fid_stats, images, network, wanted, batch_size, sharding)
    dataset = load(split or ("train" if network.counted else "test"))
    train = None
    if not network.counted and len(load("train").samples) <= CLASSIFIER_LIMIT:
        train = functools.cache(lambda: pipeline.everything(load("train")))
    return of_images(
        f"{dataset_name}:{dataset.split}",
        DatasetImages(dataset),
        network,
        wanted,
        batch_size,
        sharding,
        train=train,
        several_classes=dataset.n_classes > 1,
        gallery=dataset.split == "train",
    )


# ---------------------------------------------------------------- one evaluation


def evaluate(
    model,
    params,
    reference: Reference,
    *,
    cfg_scale: float,
    seed: int,
    num_samples: int = 0,
    batch_size: int = 256,
    sharding=None,
    labels: str = "",
    see: Callable = lambda images: None,
    space=None,
) -> dict:
    """Scores of one set of parameters, with their settings. The trainer calls it too.

    num_samples: 0 = the usual count. sharding: over this process's devices; it must divide batch_size. labels: as the flag. see(images): is shown every batch.
    space: the VAE that decodes samples which are latents, see `models.latents`.
    Sample i depends on (seed, i) and its label alone: batches, devices and processes do not change it.
    """
    n = num_samples or usual_count(reference)
    reference.check_shape(space.image_shape(model.sample_shape) if space else model.sample_shape)
    check_count(n, reference.metrics)
    kind = label_kind(labels, reference)
    y = choose_labels(kind, reference, n, model.num_classes)
    mine = processes.own_range(n)
    batch_size = min(batch_size, round_up(len(mine), sharding.mesh.size if sharding else 1))
    reference.real  # read before the clock starts
    samples = generate(
        model,
        params,
        y[mine.start : mine.stop],
        cfg_scale,
        seed,
        first=mine.start,
        batch_size=batch_size,
        sharding=sharding,
    )
    clock = Clock(map(space.decode, samples) if space else samples, see)
    row = score(clock, reference, y, batch_size, sharding)
    log.info("%d samples: %s", n, clock.report(len(mine)))
    return row | {"labels": kind}


def usual_count(reference: Reference) -> int:
    """Samples to generate when nothing is said: as published figures do, or as many as there are reals to compare pixels with."""
    return (
        networks.STANDARD_COUNT
        if reference.network.counted
        else reference.count or networks.STANDARD_COUNT
    )


def sanity_check(model, params, reference: Reference, **settings) -> None:
    """All of an evaluation on a few samples, its scores thrown away: what cannot work fails now, not at the first evaluation."""
    with without_warnings("metrics", "evaluation"):  # of the few samples
        evaluate(model, params, reference, num_samples=32 * jax.process_count(), **settings)


# ---------------------------------------------------------------- the program


def main(flag_values):
    setup_logging()
    flags = config_lib.all_flags(flag_values)
    with distributed.job(flags.distributed):
        evaluate_command(flags, config_lib.given_flags(flag_values))


def evaluate_command(flags, given):
    where = flags.load_dir
    if not where:
        raise UserError(
            "--load_dir is missing: give a run, a published artifact, a folder of images, or an .npz, for example --load_dir runs/digits"
        )
    if flags.samples_npz and jax.process_count() > 1:
        raise UserError(
            f"--samples_npz: {jax.process_count()} processes hold the samples in parts; run it in one process"
        )
    if flags.samples_npz and not flags.samples_npz.endswith(".npz"):
        raise UserError(f"--samples_npz {flags.samples_npz}: expected a name that ends in .npz")
    folder = pathlib.Path(where).expanduser()
    on_hub = where.startswith("hf://")
    if not on_hub and not folder.exists():
        raise UserError(
            f"--load_dir {where}: no such file or folder; give a run, a published artifact, a folder of images, or an .npz"
        )
    run = config_lib.from_json(folder / "config.json") if is_run(folder) else None
    of_run = lambda name: given.get(name, run[name] if run else flags[name])
    dataset_name = given.get("dataset_name", run.dataset_name if run else "")
    sharding = local_sharding()
    batch_size = round_up(flags.sample_batch_size, sharding.mesh.size)
    reference = functools.partial(
        load_reference,
        dataset_name,
        features=of_run("features"),
        inception_weights=of_run("inception_weights"),
        fid_stats=of_run("fid_stats"),
        resize=flags.resize,
        split=flags.reference_split,
        metrics=flags.metrics,
        data_options=data_options(given, dataset_name, run) if dataset_name else None,
        batch_size=batch_size,
        sharding=sharding,
    )
    out = pathlib.Path(flags.out).expanduser() if flags.out else folder if run else None
    for place in filter(
        None, (out, flags.samples_npz and pathlib.Path(flags.samples_npz).expanduser().parent)
    ):
        make_folder(place)
    if run or on_hub or (folder / "metadata.json").is_file():
        row = score_generator(flags, run, folder, out, reference, batch_size, sharding)
    else:
        useless = [name for name in OF_GENERATORS if name in given]
        if useless:
            raise UserError(
                f"--{', --'.join(useless)}: {where} holds images, which are scored as they are; leave it out, or give a generator"
            )
        row = score_images(where, out, reference, batch_size, sharding)
    row |= {
        "load_dir": where,
        "dataset_name": dataset_name,
        "processes": jax.process_count(),
        "devices": jax.device_count(),
    }
    if processes.is_first():
        print(json.dumps(row))


def score_images(where: str, out, load_reference, batch_size, sharding) -> dict:
    """One row for images that are there already."""
    images = read_images(where)
    reference = load_reference(shape=images.shape)
    reference.check_shape(images.shape)
    # class agreement is of labels that were asked for; images have none
    reference = dataclasses.replace(
        reference, metrics=tuple(m for m in reference.metrics if METRICS[m].needs != "classifier")
    )
    check_count(len(images), reference.metrics)
    row = {"samples": where} | score(
        batches(images, processes.own_range(len(images)), batch_size),
        reference,
        None,
        batch_size,
        sharding,
    )
    log.info("%s: %s", where, show(row))
    if out and processes.is_first():
        append_row(out / "fid.csv", row)
    return row


def score_generator(flags, run, folder, out, load_reference, batch_size, sharding) -> dict:
    """A row of fid.csv for each checkpoint and alpha; returns the last, or the best of a search."""
    if not run and (flags.step or flags.ema or flags.all):
        raise UserError(
            f"--step, --ema, --all: {flags.load_dir} is an artifact with one set of parameters; leave them out"
        )
    if flags.step and flags.all:
        raise UserError(f"--step {flags.step} and --all: give one of them")
    alphas, interval = parse_alphas(flags.cfg_scale)
    if interval and "fid" not in (parse_metrics(flags.metrics) or METRICS):
        raise UserError(
            "--cfg_scale search: it looks for the least Frechet distance; add fid to --metrics"
        )
    reference, space, row, drawn = None, None, {}, []
    for step in steps_of(folder) if flags.all else [flags.step or None]:
        model, metadata, params = open_generator(
            flags.load_dir, run and folder, step, flags.ema, sharding
        )
        model = flow.with_steps(model, flags.denoise_timesteps)
        space = space or latent_space_of(model, metadata, flags.vae, sharding)
        reference = reference or load_reference(
            shape=space.image_shape(model.sample_shape) if space else tuple(model.sample_shape)
        )
        n, network = flags.num_samples or usual_count(reference), reference.network
        settings = {
            "samples": "" if run and out == folder else flags.load_dir,
            "step": metadata.get("step", 0),
            "ema": str(metadata.get("ema", "")),
            "seed": flags.seed,
            "num_samples": n,
            "features": network.name,
            "resize": network.facts["resize"],
            "weights": network.facts["weights"],
            "reference": reference.name,
            "labels": label_kind(flags.labels, reference),
        } | flow.settings(model)
        skips = (flags.all or interval) and not flags.samples_npz
        row, preview = score_alphas(
            lambda alpha, see: evaluate(
                model,
                params(),
                reference,
                cfg_scale=alpha,
                seed=flags.seed,
                num_samples=n,
                batch_size=batch_size,
                sharding=sharding,
                labels=flags.labels,
                see=see,
                space=space,
            ),
            alphas,
            interval,
            settings,
            out and out / "fid.csv",
            reference.score_names(n) if skips else [],
            bool(flags.samples_npz),
        )
        if preview and out and processes.is_first():
            title = f"step {row['step']}, {parameters(row)}, alpha {row['cfg_scale']:g}"
            drawn += draw_samples(
                out / "samples" / f"eval_step_{row['step']:08d}.png",
                preview.images,
                reference,
                title,
            )
    if flags.samples_npz:
        write_npz(
            flags.samples_npz,
            preview.images,
            choose_labels(row["labels"], reference, row["num_samples"], model.num_classes),
        )
    if out and processes.is_first():
        for path in [*drawn, *draw_curves(out, row)]:
            log.info("%s", path)
    return row


def open_generator(where: str, run_folder, step: int | None, ema: str, sharding):
    """(model, metadata, params()), on the devices. Of a run, parameters are read when they are needed: what is scored already needs none."""
    if run_folder:
        model, metadata = describe_run(run_folder, step, ema)
        read = lambda: load_run(run_folder, metadata["step"], ema)[1]
    else:
        model, given, metadata = load_generator(where)
        read = lambda: given
    return model, metadata, functools.cache(lambda: jax.device_put(read(), replicated(sharding)))


def steps_of(folder: pathlib.Path) -> list[int]:
    steps = Checkpoints(folder / "checkpoints").steps()
    if not steps:
        raise UserError(
            f"--all: no checkpoint in {folder}; give the folder of a run that has saved one"
        )
    return steps


def make_folder(place: pathlib.Path) -> None:
    """Before the work, not after it."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out, --samples_npz: cannot write in {place} ({error.strerror}); give a folder that can be written"
        ) from None


def define_flags(flag_values=None):
    """The flags of this program."""
    names = (
        "load_dir",
        "seed",
        "dataset_name",
        "features",
        "inception_weights",
        "fid_stats",
        "data",
    )
    return config_lib.define_flags(names, FLAGS, *(() if flag_values is None else (flag_values,)))
