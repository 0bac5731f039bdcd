"""The scripts for clusters, walked through with programs that answer as gcloud and SLURM do."""

import os
import subprocess
import sys

import pytest
from test_train import ROOT

GCLOUD = """#!{python} -S
import pathlib, sys
place, words = pathlib.Path({place!r}), sys.argv[1:]
state, code, outcomes = place / "state", place / "exit_code", place / "outcomes"
with open(place / "calls", "a") as calls:
    calls.write(" ".join(words).replace("\\n", " ") + "\\n")
NEXT = {{"WAITING_FOR_RESOURCES": "PROVISIONING", "PROVISIONING": "ACTIVE"}}
if "describe" in words:
    if not state.exists():
        sys.exit(1)
    now = state.read_text()
    state.write_text(NEXT.get(now, now))
    print(now)
elif "create" in words:
    assert not state.exists(), "the name is taken"
    state.write_text("WAITING_FOR_RESOURCES")
elif "delete" in words:
    state.unlink()
elif "cat ~/jax-drift/exit_code" in words[-1]:
    print(code.read_text() if code.exists() else "")
elif "train_drift.py" in words[-1]:
    happens, *rest = outcomes.read_text().split()
    outcomes.write_text(" ".join(rest))
    if happens == "preempted":
        state.write_text("SUSPENDED")
        sys.exit(1)
    code.write_text(happens)
    sys.exit(happens != "0")
"""


@pytest.fixture
def cluster(tmp_path):
    """Runs a script with fake programs first in PATH; returns (process, their calls)."""

    def call(script, *words, programs, **variables):
        programs_folder = tmp_path / "bin"
        programs_folder.mkdir(exist_ok=True)
        for name, text in programs.items():
            (programs_folder / name).write_text(text)
            (programs_folder / name).chmod(0o755)
        path = f"{programs_folder}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path} | variables
        done = subprocess.run(
            ["bash", str(ROOT / "scripts" / script), *words],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            cwd=ROOT,
        )
        calls = tmp_path / "calls"
        return done, calls.read_text().splitlines() if calls.exists() else []

    return call


TPU = {"TPU_NAME": "drift", "ZONE": "here", "TIER": "spot", "PAUSE": "0", "RESTARTS": "2"}
FLAGS = ("train", "--recipe", "imagenet256_B", "--save_dir", "gs://b/a run")


@pytest.mark.parametrize(
    "outcomes, code, words, slices, runs",
    [
        ("preempted 1 0", 0, "starting again (1 of 2)", 2, 3),
        ("2 0", 2, "a mistake of its settings", 1, 1),
        ("1 1 143 0", 1, "failed 3 times without a preemption", 1, 3),
    ],
)
def test_a_slice_is_queued_for_until_the_run_is_done(
    cluster, tmp_path, outcomes, code, words, slices, runs
):
    (tmp_path / "outcomes").write_text(outcomes)
    programs = {"gcloud": GCLOUD.format(python=sys.executable, place=str(tmp_path))}
    done, calls = cluster("tpu_pod.sh", *FLAGS, programs=programs, **TPU)
    assert done.returncode == code and words in done.stderr, done.stderr
    made = [call for call in calls if " create " in call]
    assert len(made) == slices and all("--spot" in call for call in made)
    trained = [call for call in calls if "train_drift.py" in call]
    assert len(trained) == runs and r"--save_dir gs://b/a\ run" in trained[0]
    sent = [call.partition(" scp ")[2].split() for call in calls if " scp " in call]
    assert len(sent) == runs
    for source, target, *_ in sent:
        assert source.endswith("/jax-drift.tar.gz") and target == "drift:/tmp/jax-drift.tar.gz"
    assert not any("gcsfuse" in call for call in calls)


def test_a_dry_run_calls_nothing(cluster):
    programs = {"gcloud": "#!/bin/sh\nexit 3\n"}
    dry = {**TPU, "DRY_RUN": "1", "TIER": "flex-start", "HOURS": "8"}
    done, calls = cluster("tpu_pod.sh", *FLAGS, programs=programs, **dry)
    assert done.returncode == 0 and not calls, done.stderr
    assert "--provisioning-model=flex-start --max-run-duration=8h" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if "gcloud" in line]
    wrong, _ = cluster("tpu_pod.sh", *FLAGS, programs=programs, **TPU | {"TIER": "cheap"})
    assert wrong.returncode == 2 and "TIER=cheap: expected on-demand, spot" in wrong.stderr


def test_a_slice_that_cannot_be_had_ends_it(cluster):
    programs = {"gcloud": "#!/bin/sh\necho no such zone >&2\nexit 1\n"}
    done, _ = cluster("tpu_pod.sh", *FLAGS, programs=programs, **TPU)
    assert done.returncode == 1 and done.stderr.count("no such zone") == 3, done.stderr
    assert "failed 3 times without a preemption" in done.stderr


@pytest.mark.parametrize(
    "code, state, restarts, requeued",
    [
        (143, "RUNNING", 50, True),  # preempted, or near its end
        (143, "CANCELLED", 0, False),  # by scancel
        (1, "RUNNING", 0, True),  # a worker that was lost, or hung
        (1, "RUNNING", 10, False),
        (2, "RUNNING", 0, False),  # a mistake of the user's
        (0, "RUNNING", 0, False),
    ],
)
def test_a_slurm_job_queues_again_unless_it_is_done(
    cluster, tmp_path, code, state, restarts, requeued
):
    programs = {
        "srun": f"#!/bin/sh\nexit {code}\n",
        "squeue": f"#!/bin/sh\necho {state}\n",
        "scontrol": f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n',
    }
    slurm = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "7"}
    slurm["SLURM_RESTART_COUNT"] = str(restarts)
    done, calls = cluster("slurm.sbatch", programs=programs, **slurm)
    assert done.returncode == code, done.stderr
    assert calls == (["requeue 7"] if requeued else [])


def test_a_jobset_restarts_but_for_a_mistake():
    yaml = pytest.importorskip("yaml")
    spec = yaml.safe_load((ROOT / "scripts/jobset.yaml").read_text())["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    (pods,) = job["podFailurePolicy"]["rules"]
    assert pods["action"] == "FailJob" and pods["onExitCodes"]["values"] == [2]
    (container,) = job["template"]["spec"]["containers"]
    assert pods["onExitCodes"]["containerName"] == container["name"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # a policy for pods asks for it
    (jobs,) = spec["failurePolicy"]["rules"]
    assert (jobs["action"], jobs["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert spec["failurePolicy"]["maxRestarts"] > 0
