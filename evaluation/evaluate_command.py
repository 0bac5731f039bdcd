"""The command of eval_fid.py: from its flags to rows of fid.csv and one line of JSON."""

import json
import logging
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags

from evaluation import against
from evaluation.choose_metrics import is_of_six
from evaluation.flags import OF_GENERATORS, Flags
from evaluation.image_files import read_images
from evaluation.judge import judge_is_encoder
from evaluation.networks import network_name
from evaluation.request import Request, make_folders, read_request
from evaluation.score_generator import score_generator
from evaluation.score_images import score_images
from evaluation.scoring import Scored
from utils import config as config_lib
from utils import distributed, processes
from utils.compiler import keep_programs
from utils.errors import UserError
from utils.logging import setup_logging
from utils.memory import keep_freed_memory

log = logging.getLogger("eval")


def main(flag_values: flags.FlagValues) -> None:
    """Runs the command, in this process of the job."""
    setup_logging()
    keep_programs()
    all_flags = config_lib.all_flags(flag_values)
    with distributed.all_processes(all_flags.distributed):
        score_and_print(all_flags, config_lib.given_flags(flag_values))


def score_and_print(all_flags: Flags, given: Mapping[str, Any]) -> None:
    """Scores what --load_dir names, a generator or images, and prints the last row as JSON."""
    keep_freed_memory(of_threads=True)
    request = read_request(all_flags, given)
    make_folders(request)
    other = against.request_of_other(request) if all_flags.against else None
    if not request.is_generator:
        refuse_flags_of_generators(request)
    if other and not request.is_generator:
        against.check_counts(*(len(read_images(r.flags.load_dir)) for r in (request, other)))
    scored = score(request)
    notes = judge_notes(request, scored)
    row = scored.row | {
        "load_dir": request.flags.load_dir,
        "dataset_name": request.dataset_name,
        "processes": jax.process_count(),
        "devices": jax.device_count(),
    }
    if other:
        notes["against"] = compare(scored, score(other), request)
    row |= notes | missing_networks(request, scored)
    if processes.is_first():
        print(json.dumps(row))


def missing_networks(request: Request, scored: Scored) -> dict[str, list[str]]:
    """Returns which networks of a published mean could not be loaded, for JSON; {} = none."""
    if not is_of_six(request.flags.metrics):
        return {}
    found = scored.row["features"].split("+")
    names = map(network_name, request.networks)
    return {"missing_networks": [name for name in names if name not in found]}


def score(request: Request) -> Scored:
    """Returns the scores of what --load_dir names, a generator or images."""
    if request.is_generator:
        return score_generator(request)
    return score_images(request)


def compare(scored: Scored, other: Scored, request: Request) -> dict[str, Any]:
    """Returns the comparison with --against for JSON, and logs it."""
    verdicts = against.judge(scored, other)
    sources = {
        "load_dir": source_of(request.flags.load_dir, scored),
        "against": source_of(request.flags.against, other),
    }
    for name, verdict in verdicts.items():
        log.info("%s", against.describe(name, verdict, sources))
    facts = {"load_dir": request.flags.against}
    if "step" in other.row:
        facts["step"] = other.row["step"]
    return facts | {"scores": {name: verdict._asdict() for name, verdict in verdicts.items()}}


def source_of(path: str, scored: Scored) -> str:
    """Returns what was scored, in words: a path and, of a run, the step."""
    return f"{path} at step {scored.row['step']:,}" if scored.row.get("step") else path


def judge_notes(request: Request, scored: Scored) -> dict[str, Any]:
    """Returns what JSON says of the judge: of a run, whether it is the run's own encoder."""
    run = request.run
    if not run:
        return {}
    return {"judge_is_encoder": any(judge_is_encoder(judge, run) for judge in scored.networks)}


def refuse_flags_of_generators(request: Request) -> None:
    """Raises UserError when the command line says how samples are generated, but none are."""
    useless = [name for name in OF_GENERATORS if name in request.given]
    if useless:
        raise UserError(
            f"--{', --'.join(useless)}: {request.flags.load_dir} holds images, "
            "which are scored as they are; leave it out, or give a generator"
        )
