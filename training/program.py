"""A training program, from the command line to the end of the run: what the trainers share.

train_drift.py     main(DriftJob, flags)      pretrain_mae.py     main(MAEJob, flags)
"""

from typing import Any

from absl import flags

from training import loop, own_data
from training.job import Job
from training.run_folder import has_run, run_folder
from utils import config as config_lib
from utils import distributed, processes, sharding, trackers
from utils.checkpoint import Checkpoints
from utils.compiler import keep_programs
from utils.logging import setup_logging
from utils.memory import keep_freed_memory
from utils.paths import refuse_checkpoint, to_path


def main(job_type: type[Job], flag_values: flags.FlagValues) -> None:
    """Runs the program in this process, which may be one of several of a job."""
    setup_logging()
    with distributed.all_processes(config_lib.all_flags(flag_values).distributed):
        run(job_type, flag_values)


def run(job_type: type[Job], flag_values: flags.FlagValues) -> None:
    """Configures, builds and trains. Raises UserError for what cannot work, as early as it can."""
    config, saved, choices = configure(job_type, flag_values)
    trackers.check_packages(config.log)

    # ---- the parts: devices, data, networks, optimiser ----
    keep_freed_memory()
    keep_programs()
    mesh = sharding.make_mesh(config.mesh.devices, config.mesh.fsdp)
    parts = job_type.build(config, mesh)
    check_load_dir(config, job_type.schema)
    job_type.check_parts(parts)

    # ---- a dry run ends here ----
    if config.dry_run:
        chosen = own_data.merged(choices)
        settings = config_lib.explain(parts.config, flag_values, saved, job_type.schema, chosen)
        texts = [settings, *own_data.explain(choices), job_type.report(parts)]
        if processes.is_first():
            print(*texts, sep="\n\n")
        return

    # ---- the training ----
    job_type.check_memory(parts)
    job = job_type(parts, job_type.open_run(parts.config))
    of_call: Any = config_lib.all_flags(flag_values)
    loop.train(job, of_call.profile)


def configure(
    job_type: type[Job], flag_values: flags.FlagValues
) -> tuple[Any, Any, list[own_data.Choice]]:
    """Returns the configuration, that of the run which is in the folder already, and choices.

    A run goes on with its own settings, and with what the command line adds to them; without a run
    the second is None. Settings of a new run on data without a recipe are chosen by the data.
    """
    folder = run_folder(config_lib.all_flags(flag_values), job_type.folder_prefix)
    saved = None
    if has_run(folder):
        saved = config_lib.from_json(folder / "config.json", job_type.schema)
    choices = []
    if saved is None:
        choices = job_type.choose(flag_values)
    chosen = own_data.merged(choices)
    config = config_lib.resolve(flag_values, saved, job_type.schema, chosen)
    job_type.check_flags(config, flag_values)
    return config, saved, choices


def check_load_dir(config: Any, schema: config_lib.Schema) -> None:
    """Checks that --load_dir holds a checkpoint of this program. Raises UserError."""
    if not config.load_dir:
        return
    refuse_checkpoint("load_dir", config.load_dir, step_flag=False)
    metadata, _ = Checkpoints(to_path(config.load_dir) / "checkpoints").look()
    before = config_lib.flatten(metadata["config"])
    config_lib.refuse_other_trainer(before, f"--load_dir {config.load_dir}", schema)
