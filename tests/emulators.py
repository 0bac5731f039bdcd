"""Buckets for tests: emulators of Google Cloud Storage and of S3, each a process of its own.

    with bucket("gs") as (url, environment):  # "gs://bucket", variables for a program that uses it
        ...

The packages are those of requirements-buckets-test.txt. gcp-storage-emulator knows no generations,
which the real store sends with each object and compares where a request asks for it; they are added
here.
"""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus

BUCKET = "bucket"
PACKAGES = {
    "gs": ("gcp_storage_emulator", "gcsfs"),
    "s3": ("moto", "s3fs", "flask"),
}


def missing(scheme: str) -> list[str]:
    """Returns the modules that the emulator of a store, "gs" or "s3", lacks here."""
    return [name for name in PACKAGES[scheme] if importlib.util.find_spec(name) is None]


@contextlib.contextmanager
def bucket(scheme: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Starts an emulator with one empty bucket; gives its address, and the variables for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = variables(scheme, f"http://127.0.0.1:{port}")
    command = [sys.executable, __file__, scheme, str(port)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | environment,
    )
    try:
        _wait_for(port, process)
        yield f"{scheme}://{BUCKET}", environment
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def variables(scheme: str, address: str) -> dict[str, str]:
    """Returns the variables by which the clients of a store find the emulator at an address."""
    if scheme == "gs":
        return {
            "STORAGE_EMULATOR_HOST": address,
            "TENSORSTORE_GCS_HTTP_URL": address,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "emulated",
        "AWS_SECRET_ACCESS_KEY": "emulated",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }


def _wait_for(port: int, process: subprocess.Popen, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.1)
    raise RuntimeError("the emulator did not start")


# ---- the processes ----


def serve_gs(port: int) -> None:
    """Serves Google Cloud Storage, with the generations of objects."""
    import functools
    import http.server
    import urllib.parse

    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import buckets
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage

    one_at_a_time = threading.Lock()

    class WithGenerations(RequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # answers come in small pieces

        def generation(self) -> str:
            """Returns that of the object which the request names, "0" for none."""
            address = urllib.parse.urlparse(self.path)
            query = urllib.parse.parse_qs(address.query)
            if "name" in query:
                name = query["name"][0]
            elif "/o/" in address.path:
                name = urllib.parse.unquote(address.path.partition("/o/")[2])
            else:
                return "0"
            try:
                return self.storage.get_file_obj(BUCKET, name)["generation"]
            except NotFound:
                return "0"

        def end_headers(self) -> None:
            if self.command == "GET":
                self.send_header("x-goog-generation", self.generation())
            super().end_headers()

        def do_POST(self) -> None:
            self._unless_other(super().do_POST)

        def do_DELETE(self) -> None:
            self._unless_other(super().do_DELETE)

        def do_GET(self) -> None:
            with one_at_a_time:
                super().do_GET()

        def do_PUT(self) -> None:
            with one_at_a_time:
                super().do_PUT()

        def do_PATCH(self) -> None:
            with one_at_a_time:
                super().do_PATCH()

        def _unless_other(self, go_on) -> None:
            """Goes on unless the object has another generation than the one asked for."""
            query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
            with one_at_a_time:
                wanted = query.get("ifGenerationMatch", [None])[0]
                if wanted is None or wanted == self.generation():
                    go_on()
                    return
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(HTTPStatus.PRECONDITION_FAILED)
                self.send_header("Content-Length", "0")
                self.end_headers()

    storage = Storage(use_memory_fs=True)
    buckets.create_bucket(BUCKET, storage)
    handler = functools.partial(WithGenerations, storage)
    http.server.ThreadingHTTPServer(("127.0.0.1", port), handler).serve_forever()


def serve_s3(port: int) -> None:
    """Serves S3."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
    urllib.request.urlopen(request).close()
    signal.pause()


if __name__ == "__main__":
    serve = {"gs": serve_gs, "s3": serve_s3}[sys.argv[1]]
    serve(int(sys.argv[2]))
