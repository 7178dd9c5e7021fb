"""The page in a real browser (Debian's chromium, driven by Playwright): upload, ask twice, seek, compare.

Not among the locked packages: pip install 'tempo_jax[serve]' playwright, and apt-get install chromium.
TEMPO_SCREENSHOTS names a folder to leave screenshots in.
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tempo_jax.data.minireel import option_of
from tests.serving import REPO, serving_process

MISSING = "needs pip install 'tempo_jax[serve]' playwright"
playwright = pytest.importorskip("playwright.sync_api", reason=MISSING, exc_type=ImportError)
pytest.importorskip("gradio", reason=MISSING)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("needs apt-get install chromium", allow_module_level=True)

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
PATIENCE = 240_000  # milliseconds; a busy machine takes minutes to load the page


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Address of a server with a page, and a folder with two videos, one of them to be picked."""
    from tempo_jax.serve import app, page, run
    from tempo_jax.serve.files import Library, Uploads
    from tests.serving import FakeModel, make_videos, service_of

    folder = tmp_path_factory.mktemp("page")
    make_videos(folder, 1)
    row = '{"video": "v0.mp4", "conversations": [{"value": "<video>\\nWhat is in it?"}]}'
    (folder / "questions.jsonl").write_text(row + "\n")
    with service_of(FakeModel(seconds=0.02)) as service:
        library, uploads = Library([folder]), Uploads(service.limits)
        made = app.create_app(service, library, uploads)
        page.mount(made, service, library, uploads)
        with run.running(made.state.guarded, service) as address:
            yield address, folder
        uploads.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def open_page(browser, address, size):
    """A page, and the list of errors on its console."""
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(PATIENCE)
    errors = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#tempo-ask")
    return page, errors


def ask(page, question):
    page.locator("#tempo-question textarea").fill(question)
    page.locator("#tempo-ask").click()
    page.wait_for_selector(f"text=says {question}")


def seconds_until(page, sentence, since):
    page.wait_for_selector(f"text={sentence}")
    return page.evaluate("performance.now()") / 1000 - since


def picture(page, name):
    if folder := os.environ.get("TEMPO_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


@pytest.mark.parametrize("size", SIZES)
def test_upload_ask_twice_and_seek(browser, served, size):
    address, folder = served
    page, errors = open_page(browser, address, size)
    page.locator("#tempo-player input[type=file]").set_input_files(folder / "v0.mp4")
    page.wait_for_selector("#tempo-player video")
    ask(page, "Who?")
    page.wait_for_selector("text=further questions about it save that")
    ask(page, "Where?")
    page.wait_for_selector("text=was open already")
    assert page.locator("svg.tempo-plot").count() == 1 and page.locator(".tempo-strip img").count() == 2
    page.locator("svg.tempo-plot .tempo-seek").nth(1).click(position={"x": 20, "y": 40})
    page.wait_for_function("document.querySelector('#tempo-player video').currentTime === 4")
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0  # nothing sticks out at the side
    picture(page, size)
    page.close()
    assert errors == []


def test_an_example_and_two_settings_side_by_side(browser, served):
    address, _ = served
    page, errors = open_page(browser, address, "desktop")
    page.locator("#tempo-examples").get_by_text("What is in it?").first.click()
    page.wait_for_selector("#tempo-player video")
    page.get_by_text("Advanced").click()
    page.get_by_label("Compare with other settings").check()
    page.locator("#tempo-ask").click()
    page.wait_for_function("document.querySelectorAll('svg.tempo-plot').length === 2")
    one, other = (page.locator("svg.tempo-plot").nth(n).bounding_box() for n in (0, 1))
    assert other["x"] >= one["x"] + one["width"]  # side by side
    picture(page, "compare")
    page.close()
    assert errors == []


@pytest.mark.parametrize("size", SIZES)
def test_the_demo_model_answers_questions_about_its_hour(browser, size):
    """`tempo serve` as it starts by itself; the second answer needs neither decoding nor the vision tower."""
    hour = REPO / "examples" / "hour"
    rows = [json.loads(line) for line in (hour / "questions.jsonl").read_text("utf-8").splitlines()[:2]]
    with serving_process("-m", "tempo_jax.cli", "serve", "--port", "0") as (_, address, _):
        page, errors = open_page(browser, address, size)
        page.locator("#tempo-player input[type=file]").set_input_files(hour / rows[0]["video"])
        page.wait_for_selector("#tempo-player video")
        took = []
        for row, sentence in zip(rows, ("further questions about it save that", "was open already")):
            prompt = row["conversations"][0]["value"].removeprefix("<video>\n")
            page.locator("#tempo-question textarea").fill(prompt)
            began = page.evaluate("performance.now()") / 1000
            page.locator("#tempo-ask").click()
            took.append(seconds_until(page, sentence, began))
        said = [text.strip() for text in page.locator("[data-testid=bot]").all_inner_texts()]
        page.locator("svg.tempo-plot .tempo-seek").nth(74).click(force=True)
        page.wait_for_function("document.querySelector('#tempo-player video').currentTime > 2300")
        picture(page, f"demo-{size}")
        page.close()
    for row, text in zip(rows, said, strict=True):
        letter = re.match(r"\(?([A-D])\b", text)
        assert option_of(letter[0] if letter else text, row["options"]) == row["answer_letter"], text
    assert took[1] < took[0]
    assert errors == []
