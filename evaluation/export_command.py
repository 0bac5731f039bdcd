"""The command of scripts/export.py: the network of a run in a format for others."""

from evaluation.flags import Flags
from evaluation.sample_command import Sampler, load
from evaluation.web_page import write_page
from models.export import export_run
from models.latents import latent_space_of
from utils.errors import UserError
from utils.paths import to_path
from utils.sharding import local_sharding


def export(flags: Flags) -> str:
    """Writes what the flags ask for, and returns a line that says what it is.

    Raises:
        UserError: the flags are incomplete, or the network is of another kind.
    """
    if not flags.load_dir or not flags.out:
        raise UserError("--load_dir, --out: give the folder of a run and the folder to write")
    if flags.format == "web":
        return export_web(flags)
    if flags.vae or flags.onnxruntime_web:
        raise UserError("--vae, --onnxruntime_web: they are for --format web; leave them out")
    kind = export_run(flags.load_dir, flags.out, flags.step or None, flags.ema)
    return f"{flags.out}: the {kind} in the published format"


def export_web(flags: Flags) -> str:
    """Writes the page for browsers."""
    model, params, metadata = load(flags.load_dir, flags.step, flags.ema)
    sampler = Sampler(
        model=model,
        params=params,
        metadata=metadata,
        space=latent_space_of(model, metadata, flags.vae, local_sharding()),
        seed=flags.seed,
        batch_size=1,
    )
    out = to_path(flags.out)
    off = write_page(out, sampler, flags.weights == "float16", flags.onnxruntime_web)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
    return (
        f"{out}: a page of {size:.1f} MB, within {off:.3f} of 255 grey levels of JAX; see it with "
        f"python -m http.server --bind 127.0.0.1 --directory {out}"
    )
