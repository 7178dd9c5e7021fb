"""For tests of the page: Debian's chromium driven by Playwright, and axe-core (make test-browser).

TEMPO_SCREENSHOTS names a folder to leave pictures in.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.serving import make_videos

REPO = Path(__file__).resolve().parent.parent
AXE = REPO / "build" / "browser" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SIZES = {"wide": (1280, 900), "phone": (390, 844)}
PATIENCE = 120_000  # milliseconds, for machines that are busy with something else
# All of WCAG 2.2 A and AA that can be told by a program, and what axe-core calls good practice.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RUN_AXE = """async (rules) => (await axe.run(document, {runOnly: rules})).violations.map(
  ({id, impact, nodes}) => `${impact}: ${id}: ${nodes[0].html.slice(0, 200)}`)"""


def missing() -> str:
    """What is not installed of what a browser test needs; "" if nothing."""
    needs = {
        "playwright": importlib.util.find_spec("playwright") is not None,
        "chromium": CHROMIUM is not None,
        "axe-core": AXE.is_file(),
    }
    return ", ".join(name for name, there in needs.items() if not there)


@contextlib.contextmanager
def chromium():
    """A browser, or a skip that says what is missing."""
    if lacking := missing():
        pytest.skip(f"needs {lacking}: make test-browser installs what can be")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        # --no-sandbox: CI runs as root in a container, where chromium's own sandbox does not start.
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """One browser window with a session of its own, and all that went wrong in it.

    `said` is every message on the console, and every request to another host. Responses of the statuses in
    `expected` (which chromium reports on the console by itself) are not among them.
    """

    def __init__(self, browser, address, size="wide", scheme="light", expected=(), beside=None, **more):
        width, height = SIZES[size]
        phone = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2} if size == "phone" else {}
        if beside is None:
            self.context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme, **phone, **more
            )
            self.context.set_default_timeout(PATIENCE)
            self.context.add_init_script(path=AXE)  # by the driver: the page's own policy lets nothing in
        else:  # another tab of that visitor's
            self.context = beside.context
        self.page, self.address, self.said = self.context.new_page(), address, []
        self._tab = beside is not None
        self._expected = tuple(f"status of {status}" for status in expected)
        self._name = f"{size}-{scheme}"
        self.page.on("console", lambda message: self._note(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self._note(f"error: {error}"))
        self.page.on("request", lambda request: self._foreign(request.url))

    def _note(self, text):
        if not any(status in text for status in self._expected):
            self.said.append(text)

    def _foreign(self, url):
        if urlsplit(url).scheme in ("http", "https") and not url.startswith(self.address):
            self.said.append(f"request to {url}")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.page.close() if self._tab else self.context.close()
        if kind is None:
            assert not self.said, self.said

    def visit(self, rest="/"):
        self.page.goto(self.address + rest)
        self.wait_for("!['loading', undefined].includes(document.body.dataset.view)")

    def pick(self, name):
        self.page.locator("#videos").get_by_role("link").filter(has_text=name).click()
        self.page.locator("#question").wait_for()

    def ask(self, question):
        """Asks without waiting for the answer."""
        self.page.locator("#question").fill(question)
        self.page.locator("#ask").click()

    def answered(self, count, text=""):
        """Waits for the `count`-th question's last figure, and returns its article."""
        turn = self.page.locator("article.turn").nth(count - 1)
        turn.locator(".actions").wait_for()
        assert text in turn.locator(".answer").first.inner_text()
        return turn

    def time(self):
        """The player's."""
        return self.page.evaluate("document.querySelector('video').currentTime")

    def wait_for(self, expression):
        """Until it is true. (Playwright's own waiting is stopped by the page's policy against eval.)"""
        end = time.monotonic() + PATIENCE / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(50)

    def check(self):
        """What must hold in every view: axe-core has nothing to say, nothing sticks out at the side."""
        found = self.page.evaluate(RUN_AXE, RULES)
        assert not found, found
        wide = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{wide} pixels stick out"

    def picture(self, name):
        if folder := os.environ.get("TEMPO_SCREENSHOTS"):
            path = Path(folder) / f"{name}-{self._name}.png"
            self.page.screenshot(path=path)

    def tab_stops(self, within):
        """How many elements inside `within` the Tab key stops at."""
        return self.page.locator(within).evaluate(
            """element => [...element.querySelectorAll("*")]
            .filter(each => each.tabIndex >= 0 && !each.disabled && each.checkVisibility()).length"""
        )


def tricky_library(folder: Path) -> Path:
    """Two videos, one with a question that fits it, and what no page should trip over."""
    from PIL import Image

    make_videos(folder, 2)
    row = {"video": "v0.mp4", "conversations": [{"value": "<video>\nWhat is in it?\n(A) this\n(B) that"}]}
    (folder / "questions.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "<img src=x onerror=alert(1)>.mp4").write_bytes((folder / "v1.mp4").read_bytes())
    Image.fromarray(np.full((60, 80, 3), 120, np.uint8)).save(folder / "still.png")
    return folder
