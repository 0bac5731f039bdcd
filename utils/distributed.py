"""Several processes as one job, by JAX's own runtime: who takes part, what they agree on, and how they end.

    with job(flags.distributed):  # before the first use of a device
        ...

Every process runs the same program on the same arguments; arrays live on a mesh over the devices of all of them. Process 0 writes the files.
"""

import atexit
import contextlib
import json
import logging
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping

import jax
import numpy as np

from utils import processes
from utils.errors import UserError

log = logging.getLogger(__name__)

SHARED = 60  # seconds after which a file must be seen by all; file systems on a network remember for a while that it was not there
HEARTBEAT = 30  # seconds without a sign of life after which a process counts as gone
GONE = "heartbeat|unhealthy|task is set to ERROR|coordination service|[Cc]onnection (closed|reset)"  # what JAX says of another process
LAST_WORDS = """
import sys
text = sys.stdin.read()
if not text.endswith("done"):
    sys.stderr.write(text + "\\n")
"""  # outlives the process that it speaks for


@contextlib.contextmanager
def job(options):
    """Joins the other processes, if there are any, and leaves together with them. options: the `distributed` group of configs/default.py.

    Raises UserError in a single process. In one of several an error ends the process at once, in one line: were it to leave in the usual way it would wait for the
    others, and they for its part of the next step.
    """
    place = find(options)
    if place is None:
        yield
        return
    coordinator, ranks, rank, local_devices = place
    log.info(
        "process %d of %d: waiting for the others at %s, at most %d s",
        rank,
        ranks,
        coordinator,
        options.timeout,
    )
    try:
        hosts = roll_call(coordinator, ranks, rank, options.timeout)
    except UserError as error:
        _leave(error, f"process {rank} of {ranks}")
    said = _last_words(
        f"error: process {rank} of {ranks} ({socket.gethostname()}) was ended from outside, or by JAX because another process of the job is gone: "
        f"the lines above say which ({', '.join(f'{r} {host}' for r, host in enumerate(hosts))}). Start all of them again to resume from the last checkpoint"
    )
    try:
        jax.distributed.initialize(
            coordinator,
            ranks,
            rank,
            local_device_ids=local_devices,
            initialization_timeout=options.timeout,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
        if not processes.is_first():
            logging.getLogger().setLevel(logging.ERROR)
        counts = processes.concatenate_all(np.array([jax.local_device_count()], np.int32))
        log.info(
            "%d processes: %s",
            ranks,
            ", ".join(
                f"{r} {host} ({n[0]} devices)" for r, (host, n) in enumerate(zip(hosts, counts))
            ),
        )
        yield
    except Exception as error:
        if re.search(GONE, str(error)):  # whatever waited for the other is not what went wrong
            sys.stderr.write(f"{' '.join(str(error).split())[:500]}\n")
            sys.stderr.flush()
            os._exit(1)
        said()
        _leave(error, f"process {rank} of {ranks}")
    finally:
        atexit.register(
            said
        )  # runs before JAX's own end, which was registered earlier: a wait for the others, with nothing left to lose


def _leave(error: Exception, who: str):
    if isinstance(error, UserError):
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
    else:
        traceback.print_exception(error)
        sys.stderr.write(f"error: {who} stops: {type(error).__name__}; the lines above say where\n")
    sys.stderr.flush()
    os._exit(2 if isinstance(error, UserError) else 1)


def _last_words(text: str):
    """Has `text` written to stderr when this process ends without having called the function that this returns: an abort inside JAX runs no Python any more."""
    speaker = subprocess.Popen(
        [sys.executable, "-SEc", LAST_WORDS], stdin=subprocess.PIPE, start_new_session=True
    )
    speaker.stdin.write(text.encode())
    speaker.stdin.flush()

    def said():
        if not speaker.stdin.closed:
            with contextlib.suppress(OSError):
                speaker.stdin.write(b"done")
                speaker.stdin.close()
            speaker.wait()

    return said


# ---------------------------------------------------------------- who takes part


def find(options, env: Mapping[str, str] = os.environ):
    """(coordinator "host:port", processes, this process, its local devices or None for all) from the flags, JAX's variables, or the cluster; None for a job of one process.

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID; a step of SLURM; a TPU slice of several hosts, on a TPU VM or in Kubernetes.
    """
    if options.processes == 1:
        return None
    coordinator = options.coordinator or env.get("JAX_COORDINATOR_ADDRESS", "")
    ranks = options.processes or _numbers(env, "JAX_NUM_PROCESSES", "0")[0]
    rank = options.process if options.process >= 0 else _numbers(env, "JAX_PROCESS_ID", "-1")[0]
    local = _numbers(env, "JAX_LOCAL_DEVICE_IDS", "") or None
    if (coordinator or ranks or rank >= 0) and not (coordinator and ranks and rank >= 0):
        if not _in_cluster(env):
            raise UserError(
                f"a job of several processes needs --distributed.coordinator HOST:PORT (given {coordinator or 'nothing'}), --distributed.processes N "
                f"(given {ranks or 'nothing'}) and --distributed.process INDEX (given {rank if rank >= 0 else 'nothing'}), or JAX_COORDINATOR_ADDRESS, "
                "JAX_NUM_PROCESSES and JAX_PROCESS_ID"
            )
    if not (coordinator and ranks and rank >= 0):
        if not _in_cluster(env):
            return None
        from jax._src.clusters import ClusterEnv  # what jax.distributed.initialize asks

        try:
            coordinator, ranks, rank, local = ClusterEnv.auto_detect_unset_distributed_params(
                coordinator or None,
                ranks or None,
                rank if rank >= 0 else None,
                local,
                None,
                options.timeout,
            )
        except Exception as error:  # network and format errors of the cluster's own services
            raise UserError(
                f"the cluster's environment does not say who takes part ({type(error).__name__}: {error}); give --distributed.coordinator, "
                "--distributed.processes and --distributed.process, or --distributed.processes 1 for this process alone"
            ) from error
        if not coordinator or not ranks or ranks == 1:
            return None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(
            f"--distributed.coordinator {coordinator}: expected HOST:PORT, the address of process 0 and a free port there"
        )
    if not 0 <= rank < ranks:
        raise UserError(
            f"--distributed.process {rank}: expected 0 to {ranks - 1}, as there are {ranks} processes"
        )
    return None if ranks == 1 else (coordinator, ranks, rank, local)


def _numbers(env, name: str, default: str) -> list[int]:
    try:
        return [int(word) for word in (env.get(name) or default).split(",") if word]
    except ValueError:
        raise UserError(
            f"{name}={env[name]}: expected a number, or for JAX_LOCAL_DEVICE_IDS several with commas"
        ) from None


def _in_cluster(env) -> bool:
    from jax._src.cloud_tpu_init import (
        running_in_cloud_tpu_vm,
    )  # a TPU is plugged in, not only libtpu installed

    return (
        running_in_cloud_tpu_vm
        or int(env.get("SLURM_NTASKS", 1)) > 1
        and "SLURM_STEP_NODELIST" in env
    )


# ---------------------------------------------------------------- the start


def roll_call(coordinator: str, ranks: int, rank: int, timeout: float) -> list[str]:
    """Waits until all processes are there; returns their hosts. Raises UserError, in all that are there, naming those that are not after `timeout` seconds.

    Process 0 listens where JAX's coordinator will be a moment later, so no other port has to be open. JAX's own start would end without saying who is missing.
    """
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + timeout
    if rank == 0:
        return _receive(coordinator, int(port), ranks, timeout, deadline)
    me = f"{rank} {ranks} {socket.gethostname()}\n"
    answer = None
    while (
        answer is None and time.monotonic() < deadline + 5
    ):  # the first process says who is missing
        with contextlib.suppress(OSError, ValueError):  # not there yet, or not ours
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as connection:
                connection.settimeout(max(deadline + 10 - time.monotonic(), 1))
                connection.sendall(me.encode())
                answer = json.loads(connection.makefile().readline())
        time.sleep(0 if answer else 0.5)
    if answer is not None and "error" in answer:
        raise UserError(answer["error"])
    if answer is not None:
        return answer["hosts"]
    raise UserError(
        f"process 0 of {ranks} is missing: nothing answers at {coordinator} after {timeout} s (this is process {rank}, {socket.gethostname()}); start it, or "
        "check the address and that the port is open"
    )


def _receive(coordinator, port, ranks, timeout, deadline) -> list[str]:
    there, connections, error = {0: socket.gethostname()}, {}, ""

    def drop_the_dead():
        """Who has ended while the others wait is not there: it may be started again."""
        for r in [r for r, connection in connections.items() if _hung_up(connection)]:
            connections.pop(r).close()
            there.pop(r, None)

    dual = socket.has_dualstack_ipv6()
    try:
        server = socket.create_server(
            ("", port),
            family=socket.AF_INET6 if dual else socket.AF_INET,
            dualstack_ipv6=dual,
            backlog=ranks,
        )
    except OSError as problem:
        raise UserError(
            f"--distributed.coordinator {coordinator}: process 0 cannot listen there ({problem.strerror}); give a free port, or end what is left of an earlier run"
        ) from None
    with server:
        while len(there) < ranks and not error:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection, _ = server.accept()
                connection.settimeout(5)
                word, count, name = connection.makefile().readline().split()
                r = int(word)
            except TimeoutError:
                if time.monotonic() < deadline:
                    continue
                drop_the_dead()
                missing = [str(r) for r in range(ranks) if r not in there]
                error = (
                    f"{'process' if len(missing) == 1 else 'processes'} {', '.join(missing)} of {ranks} {'is' if len(missing) == 1 else 'are'} missing: nothing heard at "
                    f"{coordinator} after {timeout} s; there are {', '.join(f'{r} ({there[r]})' for r in sorted(there))}. Start all, or raise --distributed.timeout"
                )
            except (
                ValueError,
                OSError,
            ):  # not one of ours: a port scan, or what is left of an earlier run
                continue
            else:
                drop_the_dead()
                taken = there.get(r)
                connections[r if taken is None else -len(connections)] = connection
                if int(count) != ranks or not 0 < r < ranks:
                    error = f"a process of {name} calls itself {r} of {count}, in a job of {ranks} processes; give all of them the same --distributed.processes, and indices from 0"
                elif taken is not None:
                    error = f"two processes are number {r} of {ranks}: on {taken} and on {name}; give each a --distributed.process of its own"
                there[r] = name
        answer = {"error": error} if error else {"hosts": [there[r] for r in range(ranks)]}
        for connection in connections.values():
            with contextlib.suppress(OSError):
                connection.sendall((json.dumps(answer) + "\n").encode())
                connection.settimeout(5)
                connection.recv(1)  # the other side closes first, so that the port is free at once
            connection.close()
    if error:
        raise UserError(error)
    return answer["hosts"]


def _hung_up(connection) -> bool:
    """Whether the other side is gone."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        with contextlib.suppress(OSError):
            connection.settimeout(5)


# ---------------------------------------------------------------- on the way


def agree(what: str, facts: Mapping[str, object]) -> None:
    """Checks that all processes have the same facts (JSON); raises UserError, in all of them, naming the first that differ. All processes must call it."""
    if jax.process_count() == 1:
        return
    mine = json.dumps(facts, sort_keys=True, default=str).encode()
    all_facts = [
        json.loads(bytes(part)) for part in processes.concatenate_all(np.frombuffer(mine, np.uint8))
    ]
    for rank, theirs in enumerate(all_facts):
        for key in all_facts[0] | theirs:
            if (here := theirs.get(key, "absent")) != (first := all_facts[0].get(key, "absent")):
                raise UserError(
                    f"{what}: {key} is {here} in process {rank} and {first} in process 0; all processes of a job need the same code, flags, data and run folder"
                )


def agree_on_folder(folder: pathlib.Path) -> None:
    """Checks that what one process writes in the folder the others see; raises UserError, in all of them, naming a process that does not. All must call it."""
    ranks, rank = jax.process_count(), jax.process_index()
    if ranks == 1:
        return
    marks = [folder / f".process_{r}" for r in range(ranks)]
    marks[rank].touch()
    until = time.monotonic() + SHARED
    while not (seen := all(mark.exists() for mark in marks)) and time.monotonic() < until:
        time.sleep(0.2)
    blind = [
        str(r) for r, part in enumerate(processes.concatenate_all(np.array([seen]))) if not part[0]
    ]
    marks[rank].unlink(missing_ok=True)
    if blind:
        raise UserError(
            f"{folder} is not one folder for all: process {', '.join(blind)} of {ranks} does not see what the others write there; give a --save_dir on a file system that all hosts share"
        )


def stop_after(step: int, requested: bool) -> bool:
    """Whether to save and stop after this step, the same in all processes: one that gets SIGTERM stops them all. All processes must call it after every step.

    requested: by a signal to this process, which counts where it is the only one. With several JAX takes the SIGTERM itself and finds a step that none has passed.
    """
    if jax.process_count() == 1:
        return requested
    from jax.experimental.multihost_utils import reached_preemption_sync_point

    return reached_preemption_sync_point(step)
