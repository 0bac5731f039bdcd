"""Pages in a real browser: Debian's chromium, driven by the package playwright, if both are there.

apt-get install chromium; pip install playwright
"""

import contextlib
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def opened(address: str, **options):
    """Opens an address and gives the page; `page.asked` has the addresses that it asked for.

    Errors of the page's own script fail the test.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no browser: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
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
