"""The roll call before JAX starts: who is there, and on which host.

JAX itself would end every process with a long trace of its C++ functions when one is missing, and
not say which. So process 0 first listens where JAX's coordinator will be a moment later, and no
other port has to be open. Each other process connects and says

    rank, number of processes, host

Process 0 waits until all have done so, or the time is over, and answers all that are there with one
line of JSON: {"hosts": [...]} or {"error": "..."}.
"""

import contextlib
import json
import socket
import time
from typing import NamedTuple

from utils.errors import UserError

PATIENCE = 5  # seconds for one message


def roll_call(coordinator: str, ranks: int, rank: int, timeout: float) -> list[str]:
    """Waits until all processes are there, and returns their hosts by rank.

    Args:
        coordinator: "host:port" of process 0.
        ranks: how many processes there are.
        rank: which of them this is.
        timeout: seconds to wait.
    Raises:
        UserError: in all processes that are there. It names those that are not, or what does not
            fit together.
    """
    if rank == 0:
        return _call(coordinator, ranks, timeout)
    return _answer(coordinator, ranks, rank, timeout)


# ---------------------------------------------------------------- process 0


def _call(coordinator: str, ranks: int, timeout: float) -> list[str]:
    deadline = time.monotonic() + timeout
    roll, error = _Roll(ranks), ""
    with _listen(coordinator, ranks) as server:
        while not roll.is_complete() and not error:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                claim = _accept(server)
            except TimeoutError:
                if time.monotonic() >= deadline:
                    error = roll.who_is_missing(coordinator, timeout)
            except (ValueError, OSError):
                pass  # not one of ours: a port scan, or what is left of an earlier run
            else:
                error = roll.enter(claim)
        hosts = [roll.hosts[r] for r in range(ranks)] if not error else []
        roll.send_to_all({"error": error} if error else {"hosts": hosts})
    if error:
        raise UserError(error)
    return hosts


def _listen(coordinator: str, ranks: int) -> socket.socket:
    port = int(coordinator.rpartition(":")[2])
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=ranks)
    except OSError as problem:
        raise UserError(
            f"--distributed.coordinator {coordinator}: process 0 cannot listen there "
            f"({problem.strerror}); give a free port, or end what is left of an earlier run"
        ) from None


class _Claim(NamedTuple):
    """What another process has said of itself."""

    rank: int
    ranks: int
    host: str
    connection: socket.socket


def _accept(server: socket.socket) -> _Claim:
    """Waits for the next process. Raises ValueError, OSError or TimeoutError."""
    connection, _ = server.accept()
    try:
        connection.settimeout(PATIENCE)
        rank, ranks, host = connection.makefile().readline().split()
        return _Claim(int(rank), int(ranks), host, connection)
    except (ValueError, OSError):
        connection.close()
        raise


class _Roll:
    """Which processes are there, as process 0 knows it."""

    def __init__(self, ranks: int):
        self.ranks = ranks
        self.hosts = {0: socket.gethostname()}  # by rank
        self.connections: dict[int, socket.socket] = {}  # by rank; they wait for the answer
        self.rejected: list[socket.socket] = []  # these wait too

    def is_complete(self) -> bool:
        return len(self.hosts) == self.ranks

    def enter(self, claim: _Claim) -> str:
        """Enters a process. Returns what is wrong with it in words, or ""."""
        self._strike_out_the_dead()
        taken = self.hosts.get(claim.rank)
        if claim.ranks != self.ranks or not 0 < claim.rank < self.ranks:
            self.rejected.append(claim.connection)
            return (
                f"a process of {claim.host} calls itself {claim.rank} of {claim.ranks}, in a job "
                f"of {self.ranks} processes; give all of them the same --distributed.processes, "
                "and indices from 0"
            )
        if taken is not None:
            self.rejected.append(claim.connection)
            return (
                f"two processes are number {claim.rank} of {self.ranks}: on {taken} and on "
                f"{claim.host}; give each a --distributed.process of its own"
            )
        self.hosts[claim.rank] = claim.host
        self.connections[claim.rank] = claim.connection
        return ""

    def who_is_missing(self, coordinator: str, timeout: float) -> str:
        """Returns in words which processes have not come in time."""
        self._strike_out_the_dead()
        missing = [str(rank) for rank in range(self.ranks) if rank not in self.hosts]
        present = ", ".join(f"{rank} ({self.hosts[rank]})" for rank in sorted(self.hosts))
        who, verb = ("process", "is") if len(missing) == 1 else ("processes", "are")
        return (
            f"{who} {', '.join(missing)} of {self.ranks} {verb} missing: nothing heard at "
            f"{coordinator} after {timeout} s; there are {present}. Start all, or raise "
            "--distributed.timeout"
        )

    def send_to_all(self, answer: dict) -> None:
        """Sends the answer to all that wait for it, and closes their connections."""
        line = (json.dumps(answer) + "\n").encode()
        for connection in (*self.connections.values(), *self.rejected):
            with contextlib.suppress(OSError):
                connection.settimeout(PATIENCE)
                connection.sendall(line)
                # Wait for the other side to close first: the port is then free at once, for JAX.
                connection.recv(1)
            connection.close()

    def _strike_out_the_dead(self) -> None:
        """Forgets processes that have ended while they waited: they may be started again."""
        dead = [rank for rank, connection in self.connections.items() if _hung_up(connection)]
        for rank in dead:
            self.connections.pop(rank).close()
            del self.hosts[rank]


def _hung_up(connection: socket.socket) -> bool:
    """Tells whether the other side has ended. It has nothing to say before the answer."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


# ---------------------------------------------------------------- the other processes


def _answer(coordinator: str, ranks: int, rank: int, timeout: float) -> list[str]:
    deadline = time.monotonic() + timeout
    me = f"{rank} {ranks} {socket.gethostname()}\n"
    # Process 0 says who is missing when the time is over, so the others wait a little longer.
    while time.monotonic() < deadline + 5:
        try:
            answer = _ask_first_process(coordinator, me, deadline + 10)
        except (OSError, ValueError):  # it is not there yet, or it is not ours
            time.sleep(0.5)
            continue
        if "error" in answer:
            raise UserError(answer["error"])
        return answer["hosts"]
    raise UserError(
        f"process 0 of {ranks} is missing: nothing answers at {coordinator} after {timeout} s "
        f"(this is process {rank}, {socket.gethostname()}); start it, or check the address and "
        "that the port is open"
    )


def _ask_first_process(coordinator: str, me: str, deadline: float) -> dict:
    """Says who this process is, and returns the answer. Raises OSError or ValueError."""
    host, _, port = coordinator.rpartition(":")
    address = (host.strip("[]"), int(port))  # an IPv6 address has brackets in "host:port"
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        connection.settimeout(max(deadline - time.monotonic(), 1))
        connection.sendall(me.encode())
        return json.loads(connection.makefile().readline())
