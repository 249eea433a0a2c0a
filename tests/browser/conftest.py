"""A real chromium for the tests of this folder; they are skipped, with the reason, where it or Playwright is missing."""
import os
import shutil
from pathlib import Path

import pytest

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")                 # not longer: while Playwright runs, no other test can have an event loop
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("chromium is missing: apt-get install chromium")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=FLAGS, timeout=180_000)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def screenshot():
    """Write a screenshot of a page to the folder that the environment variable RG_SCREENSHOTS names, if any."""
    def write(page, name):
        if "RG_SCREENSHOTS" in os.environ:
            page.screenshot(path=Path(os.environ["RG_SCREENSHOTS"]) / f"{name}.png")
    return write


@pytest.fixture(scope="session")
def touch():
    """Touch a page with one finger, at points (x, y) in CSS pixels one after the other."""
    def along(page, *points):
        client = page.context.new_cdp_session(page)
        for i, (x, y) in enumerate(points):
            client.send("Input.dispatchTouchEvent", {"type": "touchMove" if i else "touchStart", "touchPoints": [{"x": x, "y": y}]})
        client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    return along
