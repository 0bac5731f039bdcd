"""Pages in a real browser: the system's chromium or playwright's own, driven by that package.

pip install playwright, and apt-get install chromium or playwright install chromium
"""

import contextlib
import pathlib
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def opened(address: str, **options):
    """Opens an address and gives the page; `page.asked` has the addresses that it asked for.

    Errors of the page's own script fail the test.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with sync_api.sync_playwright() as playwright:
        if not (CHROMIUM or pathlib.Path(playwright.chromium.executable_path).exists()):
            pytest.skip("no browser: apt-get install chromium, or playwright install chromium")
        flags = ["--no-sandbox"]  # tests may run as root
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(**options)
        page.asked, errors = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(address)
        yield page
        assert not errors
        browser.close()
