"""What a command line of eval_fid.py asks for, checked before anything slow begins."""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from evaluation.choose_metrics import is_of_six
from evaluation.dataset_images import data_options
from evaluation.feature_cache import open_cache
from evaluation.flags import Flags
from evaluation.judge import warn_of_teachers
from evaluation.load_reference import load_references
from evaluation.networks import SIX, split_networks
from evaluation.reference import Reference
from evaluation.scoring import networks_of
from models.runs import is_run
from utils import config as config_lib
from utils import storage
from utils.config.values import as_text
from utils.errors import UserError
from utils.paths import refuse_checkpoint, to_path
from utils.sharding import local_sharding, round_up

# Flags of data that do not change what an image is.
NOT_OF_THE_IMAGES = (
    "data.dir",
    "data.split",  # of the training
    "data.workers",
    "data.streaming",
    "data.stream_window",
    "data.max_corrupt",
)


@dataclasses.dataclass(frozen=True)
class Request:
    """A command line of eval_fid.py, and what --load_dir names.

    Attributes:
        flags: all flags, with defaults for those that are not given.
        given: {name: value} of the flags on the command line.
        folder: --load_dir as a path; of no meaning for hf://NAME.
        run: the configuration of the run in that folder; None where it is no run.
        dataset_name: that samples are compared with, or that statistics should be of; "" = none.
        data_options: the options of group `data` for it; None without a data set.
        batch_size: samples per call, a multiple of the number of devices.
        sharding: of a batch over this process's devices.
        writes: whether rows and pictures are written.
        other_run: the configuration of the run that it is compared with; None where there is none.
    """

    flags: Flags
    given: Mapping[str, Any]
    folder: pathlib.Path
    run: ConfigDict | None
    dataset_name: str
    data_options: Mapping[str, Any] | None
    batch_size: int
    sharding: NamedSharding
    writes: bool = True
    other_run: ConfigDict | None = None

    @property
    def is_generator(self) -> bool:
        """Whether --load_dir is a run or an artifact, rather than images."""
        on_hub = self.flags.load_dir.startswith("hf://")
        return bool(self.run or on_hub or (self.folder / "metadata.json").is_file())

    @property
    def out(self) -> pathlib.Path | None:
        """The folder of fid.csv and the pictures; None: none are written."""
        if not self.writes:
            return None
        if self.flags.out:
            return to_path(self.flags.out)
        return self.folder if self.run else None

    @property
    def table(self) -> pathlib.Path | None:
        """The fid.csv that rows go to; None: they are only printed."""
        return self.out / "fid.csv" if self.out else None

    @property
    def row_settings(self) -> dict[str, str]:
        """What a row of fid.csv says of flags that change the images: the VAE, options of the data,
        and other held-out reals than those of the data set. Those that are not given are left out.
        """
        options = []
        for name, value in sorted(self.given.items()):
            if name.startswith("data.") and name not in NOT_OF_THE_IMAGES:
                options.append(f"{name.removeprefix('data.')}={as_text(value)}")
        settings = {name: self.given.get(name, "") for name in ("vae", "held_out")}
        settings["data"] = " ".join(options)
        return {name: value for name, value in settings.items() if value}

    def setting(self, name: str) -> Any:
        """Returns a setting of the command line or, where it is not given, of the run."""
        if name in self.given:
            return self.given[name]
        return self.run[name] if self.run else self.flags[name]

    @property
    def networks(self) -> list[str]:
        """The networks of --features, which joins several by +; [""] = the usual one.

        Raises UserError for --features beside a metric that has its own networks.
        """
        if is_of_six(self.flags.metrics):
            if "features" in self.given:
                raise UserError(
                    f"--metrics {self.flags.metrics}: it has its own six networks; leave out "
                    "--features, or give fdr for others"
                )
            return list(SIX)
        return split_networks(self.setting("features"))

    def load_references(self, shape: tuple[int, ...]) -> list[Reference]:
        """Returns what samples of shape (H, W, C) are compared with, in each of the networks.

        A warning names those that the run was trained in.

        Raises:
            UserError: as `load_references`; the samples are of another size; or two networks have
                one name, and their scores would too.
        """
        references = load_references(
            self.dataset_name,
            networks=self.networks,
            resize=self.flags.resize,
            inception_weights=self.setting("inception_weights"),
            fid_stats=self.setting("fid_stats"),
            held_out=self.flags.held_out,
            split=self.flags.reference_split,
            metrics=self.flags.metrics,
            data_options=self.data_options,
            shape=shape,
            batch_size=self.batch_size,
            sharding=self.sharding,
            cache=open_cache(self.flags.feature_cache, self.flags.feature_cache_gib),
            skip_missing=is_of_six(self.flags.metrics),
            runs=[run for run in (self.run, self.other_run) if run],
        )
        if self.run:
            warn_of_teachers(networks_of(references), self.run)
        for reference in references:
            reference.check_shape(shape)
        names = Counter(reference.network.name for reference in references)
        name, times = names.most_common(1)[0]
        if times > 1:
            raise UserError(
                f"--features: {times} networks are called {name}; score them one by one"
            )
        return references


def read_request(flags: Flags, given: Mapping[str, Any]) -> Request:
    """Returns the request of a command line.

    Args:
        flags: all flags.
        given: those on the command line.
    Raises:
        UserError: something is missing or cannot be done, or config.json of the run is not ours.
    """
    check_paths(flags)
    folder = folder_of(flags.load_dir)
    run = find_run(flags.load_dir)
    dataset_name = given.get("dataset_name", run.dataset_name if run else "")
    sharding = local_sharding()
    return Request(
        flags=flags,
        given=given,
        folder=folder,
        run=run,
        dataset_name=dataset_name,
        data_options=data_options(given, dataset_name, run) if dataset_name else None,
        batch_size=round_up(flags.sample_batch_size, sharding.mesh.size),
        sharding=sharding,
        other_run=find_run(flags.against) if flags.against else None,
    )


def folder_of(source: str) -> pathlib.Path:
    """Returns the path that --load_dir or --against names; the working folder for hf://name."""
    return pathlib.Path() if source.startswith("hf://") else to_path(source)


def find_run(source: str) -> ConfigDict | None:
    """Returns the configuration of the run that --load_dir or --against names; None for others."""
    return config_lib.from_json(to_path(source) / "config.json") if is_run(source) else None


def check_paths(flags: Flags) -> None:
    """Raises UserError when what is to be scored is not there, or a flag cannot be."""
    source = flags.load_dir
    if not source:
        raise UserError(
            "--load_dir is missing: give a run, a published artifact, a folder of images, "
            "or an .npz, for example --load_dir runs/digits"
        )
    for name in ("load_dir", "against"):
        check_source(name, flags[name])
    if flags.samples_npz and jax.process_count() > 1:
        raise UserError(
            f"--samples_npz: {jax.process_count()} processes hold the samples in parts; "
            "run it in one process"
        )
    if flags.samples_npz and not flags.samples_npz.endswith(".npz"):
        raise UserError(f"--samples_npz {flags.samples_npz}: expected a name that ends in .npz")


def check_source(name: str, source: str) -> None:
    """Raises UserError when --load_dir or --against, if given, names nothing that is there."""
    if not source:
        return
    refuse_checkpoint(name, source, step_flag=name == "load_dir")
    if not source.startswith("hf://") and not to_path(source).exists():
        raise UserError(
            f"--{name} {source}: no such file or folder; give a run, a published artifact, "
            "a folder of images, or an .npz"
        )


def make_folders(request: Request) -> None:
    """Makes the folders that results go to: before the work, not after it.

    Raises:
        UserError: one of them cannot be written.
    """
    folders = [request.out] if request.out else []
    if request.flags.samples_npz:
        folders.append(to_path(request.flags.samples_npz).parent)
    for folder in [folder for folder in folders if not storage.is_bucket(folder)]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--out, --samples_npz: cannot write in {folder} ({error.strerror}); "
                "give a folder that can be written"
            ) from None
