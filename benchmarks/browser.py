"""Milliseconds per picture of a page of scripts/export.py --format web, in headless Chromium.

    apt-get install chromium; pip install playwright
    python scripts/export.py --load_dir runs/digits --format web --out runs/digits/web
    python benchmarks/browser.py runs/digits/web

The page draws 64 pictures again and again; the line has the median over the rounds of the mean of
each, as the page itself tells it, and the first round apart. The folder is served on 127.0.0.1.
"""

import argparse
import functools
import http.server
import importlib
import json
import pathlib
import shutil
import statistics
import threading
import time

PICTURES = "64"
DONE = "#pictures[aria-busy=false]"


class QuietServer(http.server.SimpleHTTPRequestHandler):
    """Files, without a line for each."""

    def log_message(self, format, *args):
        pass


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path, help="of the page")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="wasm", choices=("wasm", "webgpu"))
    given = parser.parse_args()
    handler = functools.partial(QuietServer, directory=given.folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/?device={given.device}"
        result = measure(address, given.rounds)
        server.shutdown()
    sizes = [file.stat().st_size for file in given.folder.rglob("*") if file.is_file()]
    print(json.dumps(result | {"folder_mb": round(sum(sizes) / 1e6, 1)}))


def measure(address: str, rounds: int) -> dict:
    """Returns seconds until the first pictures, and milliseconds per picture after that."""
    playwright = importlib.import_module("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        start = time.perf_counter()
        page.goto(address)
        page.locator(DONE).wait_for(timeout=120_000)
        first = time.perf_counter() - start
        page.select_option("#count", PICTURES)
        times, told = [], ""
        for seed in range(rounds):
            page.fill("#seed", str(seed + 10))
            page.locator(DONE).wait_for(timeout=120_000)
            told = page.inner_text("#status")
            times.append(float(told.split(" ms each")[0].split()[-1]))
        result = {"status": told, "version": browser.version}
        browser.close()
    return result | {
        "first_pictures_s": round(first, 2),
        "ms_per_picture": statistics.median(times),
        "all_ms": times,
    }


if __name__ == "__main__":
    main()
