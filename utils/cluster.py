"""Who takes part in a job: from the flags, JAX's own variables, or the cluster."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from utils.errors import UserError


class Member(NamedTuple):
    """The place of this process in a job of several.

    Attributes:
        coordinator: "host:port" of process 0.
        ranks: how many processes there are.
        rank: which of them this is, from 0.
        local_devices: the indices of its devices on this host; None for all.
    """

    coordinator: str
    ranks: int
    rank: int
    local_devices: list[int] | None


def find_member(options, env: Mapping[str, str] = os.environ) -> Member | None:
    """Returns the place of this process in its job, or None for a job of one process.

    The first of these that says it counts:

        --distributed.coordinator, --distributed.processes, --distributed.process
        JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID, JAX_LOCAL_DEVICE_IDS
        the cluster: a step of SLURM, or a TPU slice of several hosts

    Args:
        options: the `distributed` group of `configs/default.py`.
        env: the variables of the environment.
    Raises:
        UserError: what is said is not complete, or does not fit together.
    """
    if options.processes == 1:
        return None
    coordinator = options.coordinator or env.get("JAX_COORDINATOR_ADDRESS", "")
    ranks = options.processes or _numbers(env, "JAX_NUM_PROCESSES", "0")[0]
    rank = options.process if options.process >= 0 else _numbers(env, "JAX_PROCESS_ID", "-1")[0]
    local_devices = _numbers(env, "JAX_LOCAL_DEVICE_IDS", "") or None
    member = Member(coordinator, ranks, rank, local_devices)

    said = [bool(coordinator), bool(ranks), rank >= 0]
    if not all(said):
        if not _in_cluster(env):
            if any(said):
                raise _incomplete(member)
            return None
        member = _ask_cluster(member, options.timeout)
        if not member.coordinator or not member.ranks or member.ranks == 1:
            return None
    _check(member)
    return None if member.ranks == 1 else member


def _incomplete(member: Member) -> UserError:
    coordinator = member.coordinator or "nothing"
    ranks = member.ranks or "nothing"
    rank = member.rank if member.rank >= 0 else "nothing"
    return UserError(
        f"a job of several processes needs --distributed.coordinator HOST:PORT (given "
        f"{coordinator}), --distributed.processes N (given {ranks}) and --distributed.process "
        f"INDEX (given {rank}), or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
    )


def _check(member: Member) -> None:
    host, _, port = member.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(
            f"--distributed.coordinator {member.coordinator}: expected HOST:PORT, the address of "
            "process 0 and a free port there, from 1 to 65535"
        )
    if not 0 <= member.rank < member.ranks:
        raise UserError(
            f"--distributed.process {member.rank}: expected 0 to {member.ranks - 1}, as there are "
            f"{member.ranks} processes"
        )


def _numbers(env: Mapping[str, str], name: str, default: str) -> list[int]:
    """Returns the numbers, separated by commas, that a variable holds."""
    try:
        return [int(word) for word in (env.get(name) or default).split(",") if word]
    except ValueError:
        raise UserError(
            f"{name}={env[name]}: expected a number, or for JAX_LOCAL_DEVICE_IDS several with "
            "commas"
        ) from None


def _in_cluster(env: Mapping[str, str]) -> bool:
    # True where a TPU is plugged in, not only its library installed.
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm

    in_slurm_step = int(env.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_NODELIST" in env
    return running_in_cloud_tpu_vm or in_slurm_step


def _ask_cluster(said: Member, timeout: int) -> Member:
    """Fills in what was not said, as jax.distributed.initialize would."""
    from jax._src.clusters import ClusterEnv

    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(
            said.coordinator or None,
            said.ranks or None,
            said.rank if said.rank >= 0 else None,
            said.local_devices,
            None,
            timeout,
        )
    except Exception as error:  # network and format errors of the cluster's own services
        raise UserError(
            "the cluster's environment does not say who takes part "
            f"({type(error).__name__}: {error}); give --distributed.coordinator, "
            "--distributed.processes and --distributed.process, or --distributed.processes 1 for "
            "this process alone"
        ) from error
    coordinator, ranks, rank, devices = found  # each may still be None
    return Member(
        coordinator or "",
        ranks or 0,
        -1 if rank is None else rank,
        None if devices is None else list(devices),
    )
