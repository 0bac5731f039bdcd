"""The command of scripts/export.py: the network of a run in a format for others."""

import pathlib

from evaluation.fid_csv import read_rows
from evaluation.flags import Flags
from evaluation.hub_card import space_card
from evaluation.hub_folder import write_hub_folder
from evaluation.sample_command import Sampler, load
from evaluation.web_page import write_page
from models.export import export_run
from models.latents import latent_space_of
from utils import storage
from utils.errors import UserError
from utils.files import cannot_write
from utils.paths import to_path
from utils.sharding import local_sharding
from utils.weight_files.hub import REPOSITORY, upload_command, upload_folders


def export(flags: Flags) -> str:
    """Writes what the flags ask for, and returns a line that says what it is.

    Raises:
        UserError: the flags are incomplete, or the network is of another kind.
    """
    if flags.push:
        return export_hub(flags)
    if not flags.load_dir or not flags.out:
        raise UserError("--load_dir, --out: give the folder of a run and the folder to write")
    if flags.space or flags.license:
        raise UserError("--space, --license: they are for --push OWNER/NAME; leave them out")
    if flags.format == "web":
        return export_web(flags)
    if flags.vae or flags.onnxruntime_web:
        raise UserError("--vae, --onnxruntime_web: they are for --format web; leave them out")
    kind = export_run(flags.load_dir, flags.out, flags.step or None, flags.ema)
    return f"{flags.out}: the {kind} in the published format"


def export_web(flags: Flags) -> str:
    """Writes the page for browsers."""
    out = to_path(flags.out)
    if storage.is_bucket(out):
        raise UserError(f"--out {out}: a page is written on this machine; give a folder of it")
    model, params, metadata = load(flags.load_dir, flags.step, flags.ema)
    sampler = Sampler(
        model=model,
        params=params,
        metadata=metadata,
        space=latent_space_of(model, metadata, flags.vae, local_sharding()),
        seed=flags.seed,
        batch_size=1,
    )
    off = write_page(out, sampler, flags.weights == "float16", flags.onnxruntime_web)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
    return (
        f"{out}: a page of {size:.1f} MB, within {off:.3f} of 255 grey levels of JAX; see it with "
        f"python -m http.server --bind 127.0.0.1 --directory {out}"
    )


# ---------------------------------------------------------------- the hub


def export_hub(flags: Flags) -> str:
    """Writes the folder of a repository, and one of a Space if wanted, and puts them on the hub."""
    if not REPOSITORY.fullmatch(flags.push):
        raise UserError(f"--push {flags.push}: expected OWNER/NAME, such as me/digits")
    if not flags.load_dir:
        raise UserError("--load_dir is missing: give the folder of a run")
    if flags.format == "web":
        raise UserError("--format web: --push has the page too; give --space 1 in its place")
    run = to_path(flags.load_dir)
    folder = to_path(flags.out) if flags.out else run / "hub"
    if storage.is_bucket(folder):
        raise UserError(f"--push goes by a folder of this machine, not {folder}; give one as --out")
    if (folder / "checkpoints").exists():  # its config.json would be written over
        raise UserError(f"--out {folder} holds a run: give another folder")
    if export_run(run, folder, flags.step or None, flags.ema) != "generator":
        raise UserError(
            f"--push: {run} is the run of an encoder, for which there is no card yet; its artifact "
            f"is written, push it by {upload_command(folder, flags.push, 'model')}"
        )
    licence = flags.license or "unknown"
    rows = read_rows(run / "fid.csv")
    sampler = write_hub_folder(folder, rows, flags.push, licence, flags.vae, flags.seed)
    folders = {"model": folder}
    if flags.space:
        folders["space"] = folder.with_name(f"{folder.name}-space")
        write_space(folders["space"], sampler, flags, licence)
    pages = upload_folders(folders, flags.push)
    return f"{' and '.join(pages)}: pushed; load it by --load_dir hf://{flags.push}"


def write_space(folder: pathlib.Path, sampler: Sampler, flags: Flags, licence: str) -> None:
    """Writes the page for browsers as a Space."""
    write_page(folder, sampler, flags.weights == "float16", flags.onnxruntime_web)
    title = flags.push.partition("/")[2]
    try:
        card = space_card(title, flags.push, licence)
        (folder / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise cannot_write(folder, error) from error
