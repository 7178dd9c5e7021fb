"""The page in a real browser, against the real server: wide and phone size, light and dark.

Most of it has a stand-in for the model, which answers at once or waits; the demo model comes last.
"""

import functools
import json
import re

import numpy as np
import pytest

from tempo_jax.data.minireel import option_of
from tempo_jax.serve.model import XCompModel
from tempo_jax.serve.pages import UI
from tempo_jax.video.synthetic import SyntheticVideo, write_video
from tests import xcomp_systems
from tests.browsing import SIZES, Visitor, chromium, tricky_library
from tests.serving import REPO, FakeModel, serving_process
from tests.serving_http import server as api_server

WINDOWS = [(size, scheme) for size in SIZES for scheme in ("light", "dark")]
server = functools.partial(api_server, page=UI)
HOUR = REPO / "examples" / "hour"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tricky_library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def shared(folder):
    """The address of a server for tests that leave it as they found it."""
    with server([folder], FakeModel(seconds=0.02)) as (address, _):
        yield address


@pytest.mark.parametrize("size,scheme", WINDOWS)
def test_upload_ask_twice_and_seek(browser, shared, folder, size, scheme):
    with Visitor(browser, shared, size, scheme, reduced_motion="reduce") as visitor:
        page = visitor.page
        visitor.visit()
        page.locator("#videos li").first.wait_for()
        visitor.check()
        page.locator("#file").set_input_files(folder / "v0.mp4")
        page.locator("#question").wait_for()
        visitor.wait_for("document.querySelector('video')?.readyState >= 1")
        visitor.check()
        visitor.ask("Who?")
        first = visitor.answered(1, "says Who?")
        assert "Opening the video" in first.locator(".figures").inner_text()
        visitor.ask("Where?")
        second = visitor.answered(2, "says Where?")
        assert "Saved by reuse" in second.locator(".figures").inner_text()
        assert second.locator(".thumb").count() == 1  # of two segments, the one that kept more than the least
        visitor.check()
        visitor.picture("answers")
        seek(visitor, second)


def seek(visitor, turn):
    """By a thumbnail, by a click on the timeline, and by keys; the plot is one stop of the Tab key."""
    page = visitor.page
    turn.locator(".thumb").click()  # to what the picture shows, the segment's middle
    visitor.wait_for("document.querySelector('video').currentTime === 6")
    slider = page.get_by_role("slider", name="Position in the video")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    slider.click(position={"x": box["width"] * 0.25, "y": 20})
    visitor.wait_for("Math.abs(document.querySelector('video').currentTime - 2) < 0.1")
    assert visitor.tab_stops(".timeline") == 1
    slider.focus()
    for key, seconds in (("Home", 0), ("PageUp", 4), ("PageDown", 0), ("End", 8), ("ArrowLeft", 7.6)):
        page.keyboard.press(key)
        visitor.wait_for(f"Math.abs(document.querySelector('video').currentTime - {seconds}) < 0.05")
    page.keyboard.press("PageUp")
    assert "4 tokens, relevance 0.10" not in slider.get_attribute("aria-valuetext")
    assert "128 tokens, relevance 0.90" in slider.get_attribute("aria-valuetext")


def test_hovering_over_the_timeline_says_what_is_there(browser, shared):
    with Visitor(browser, shared) as visitor:
        visitor.visit()
        visitor.pick("v1.mp4")
        visitor.ask("Who?")
        visitor.answered(1)
        slider = visitor.page.get_by_role("slider", name="Position in the video")
        box = slider.bounding_box()
        slider.hover(position={"x": box["width"] * 0.6, "y": 20})
        tip = visitor.page.locator(".tip")
        assert tip.inner_text().split("\n") == ["0:04 to 0:08", "128 tokens, relevance 0.90"]
        visitor.wait_for("document.querySelector('.tip img').naturalWidth > 0")
        assert visitor.time() == 0  # to look is not to go there
        visitor.page.locator("#question").hover()
        assert tip.is_hidden()


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    """A video that by its file's own clock begins at second 10, and one that chromium does not play."""
    import av

    folder = tmp_path_factory.mktemp("late")
    for name, codec in (("late.webm", "libvpx"), ("late.avi", "mpeg4")):
        with av.open(folder / name, "w") as container:
            stream = container.add_stream(codec, rate=4, width=64, height=48, pix_fmt="yuv420p")
            for number in range(32):
                shade = np.full((48, 64, 3), 8 * number, np.uint8)
                picture = av.VideoFrame.from_ndarray(shade, "rgb24")
                picture.pts = number + (40 if name == "late.webm" else 0)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    return folder


def test_a_clock_that_does_not_begin_at_0(browser, late):
    with server([late]) as (address, _), Visitor(browser, address) as visitor:
        visitor.visit()
        visitor.pick("late.webm")
        visitor.ask("Who?")
        turn = visitor.answered(1)
        turn.locator(".thumb").click()  # the second of two segments of 4 seconds; chromium begins at 10
        visitor.wait_for("document.querySelector('video').currentTime === 16")
        slider = visitor.page.get_by_role("slider")
        assert slider.get_attribute("aria-valuemax") == "8.0"
        assert "0:06 of 0:08; 128 tokens" in slider.get_attribute("aria-valuetext")


def test_a_video_that_the_browser_cannot_play(browser, late):
    """The timeline shows pictures of the segments instead."""
    with server([late]) as (address, _), Visitor(browser, address) as visitor:
        visitor.visit()
        visitor.pick("late.avi")
        visitor.page.get_by_text("Your browser cannot play this file").wait_for()
        visitor.check()
        visitor.ask("Who?")
        visitor.answered(1)
        slider = visitor.page.get_by_role("slider")
        slider.focus()
        visitor.page.keyboard.press("PageUp")
        still = visitor.page.locator("img.still")
        assert still.get_attribute("alt") == "The video at 0:04"
        assert still.get_attribute("src").endswith("/thumbnails/1")
        visitor.wait_for("document.querySelector('img.still').naturalWidth > 0")
        visitor.check()


class SlowlyOpened(FakeModel):
    """Stops after the first chunk until `go` is set."""

    def open(self, clip, progress):
        progress("decoding", 1, 4)
        self.go.wait(60)
        super().open(clip, progress)


def test_progress_of_the_opening(browser, folder):
    model = SlowlyOpened()
    with server([folder], model) as (address, _), Visitor(browser, address) as visitor:
        visitor.visit()
        visitor.pick("v1.mp4")
        visitor.ask("Who?")
        visitor.page.locator(".status").get_by_text(
            "Decoding and encoding the video: 1 of 4 chunks"
        ).wait_for()
        bar = visitor.page.get_by_role("progressbar")
        assert bar.evaluate("bar => [bar.value, bar.max]") == [1, 4]
        visitor.check()
        model.go.set()
        visitor.answered(1, "says Who?")
        assert bar.is_hidden()


def test_play_and_pause(browser, shared):
    with Visitor(browser, shared) as visitor:
        visitor.visit()
        visitor.pick("v1.mp4")
        visitor.page.get_by_role("button", name="Play").click()
        visitor.wait_for("document.querySelector('video').currentTime > 0.2")
        visitor.page.get_by_role("button", name="Pause").click()
        visitor.wait_for("document.querySelector('video').paused")
        mute = visitor.page.get_by_role("button", name="Mute")
        mute.click()
        assert mute.get_attribute("aria-pressed") == "true"


def test_stop_stops_the_computing(browser, folder):
    model = FakeModel()
    with server([folder], model) as (address, _), Visitor(browser, address) as visitor:
        visitor.visit()
        visitor.pick("v1.mp4")
        visitor.ask("something slow")
        visitor.wait_for("document.querySelector('.answer').textContent !== ''")
        visitor.page.locator("#stop").click()
        turn = visitor.answered(1, "v1.mp4 says")
        assert "Stopped here." in turn.inner_text()
        visitor.wait_for("document.querySelector('#stop').hidden")
        assert model_stops(model) == ["something slow"]
        visitor.ask("Again?")
        visitor.answered(2, "says Again?")


def model_stops(model):
    from tests.serving import wait_until

    wait_until(lambda: model.stopped)
    return model.stopped


def test_leaving_a_video_stops_its_question(browser, folder):
    model = FakeModel()
    with server([folder], model) as (address, _), Visitor(browser, address) as visitor:
        visitor.visit()
        visitor.pick("v1.mp4")
        visitor.ask("something slow")
        visitor.wait_for("document.querySelector('.answer').textContent !== ''")
        visitor.page.locator("#all-videos").click()
        visitor.wait_for("document.activeElement.id === 'main'")  # not lost with what had the focus
        assert model_stops(model) == ["something slow"]
        visitor.pick("v0.mp4")
        assert visitor.page.locator("article.turn").count() == 0
        visitor.page.go_back()
        visitor.page.go_back()
        visitor.page.locator("article.turn").wait_for()
        assert "Stopped here." in visitor.page.locator("article.turn").inner_text()


def test_the_queue_and_a_full_one(browser, folder):
    """One is being answered, one waits and is told its place, the third is refused and keeps its question."""
    model = FakeModel()
    with (
        server([folder], model, waiting=1) as (address, _),
        Visitor(browser, address) as first,
        Visitor(browser, address) as second,
        Visitor(browser, address, expected=[429], beside=second) as third,
    ):
        for visitor in (first, second, third):
            visitor.visit()
            visitor.pick("v1.mp4")
        first.ask("something slow")
        first.wait_for("document.querySelector('.answer').textContent !== ''")
        second.ask("Who?")
        second.wait_for("document.querySelector('.status').textContent === 'Next in the queue, about 5 s'")
        third.ask("Me too?")
        error = third.page.locator("article.turn .error")
        error.wait_for()
        assert "try again in" in error.inner_text()
        assert third.page.locator("#question").input_value() == "Me too?"
        third.check()
        third.picture("full")
        model.go.set()
        second.answered(1, "says Who?")
        third.page.get_by_role("button", name="Ask again").click()
        third.answered(1, "says Me too?")
        assert third.page.locator("article.turn").count() == 1
        assert third.page.locator("#question").input_value() == ""


@pytest.mark.parametrize("question", ["a mistake", "a bug"])
def test_errors_of_the_model_look_like_errors(browser, shared, question):
    with Visitor(browser, shared) as visitor:
        visitor.visit()
        visitor.pick("v1.mp4")
        visitor.ask(question)
        visitor.page.locator("article.turn .error").wait_for()
        assert visitor.page.locator("article.turn .answer").is_hidden()
        assert visitor.page.locator("#question").input_value() == question


def test_a_server_that_is_gone(browser, folder):
    with Visitor(browser, "http://127.0.0.1") as visitor:
        with server([folder]) as (address, _):
            visitor.address = address
            visitor.visit()
            visitor.pick("v1.mp4")
            visitor.wait_for("document.querySelector('video')?.readyState >= 1")
        visitor.ask("Anybody?")
        visitor.page.locator("article.turn .error").wait_for()
        assert "does not answer" in visitor.page.locator("article.turn .error").inner_text()
        assert visitor.page.locator("#question").input_value() == "Anybody?"
        visitor.said = [text for text in visitor.said if "net::ERR_CONNECTION_REFUSED" not in text]


def test_text_is_text(browser, shared):
    """Of names, questions and answers."""
    with Visitor(browser, shared) as visitor:
        visitor.visit()
        visitor.pick("<img src=x onerror=alert(1)>.mp4")
        visitor.ask("count <b or >a, <script>alert(2)</script><img src=y>")
        turn = visitor.answered(1, "says count <b or >a, <script>alert(2)</script><img src=y>")
        assert turn.locator("b:text('or'), script, .answer img").count() == 0
        assert "<img src=x onerror=alert(1)>.mp4" in visitor.page.title()


def compare(visitor, budget):
    """Sets the same question to be asked with another budget beside."""
    page = visitor.page
    page.locator("#open-settings").click()
    page.get_by_role("switch", name="Compare two settings").check()
    slider, field = (
        page.locator(f"[data-setting=budget][data-set=B][type={t}]") for t in ("range", "number")
    )
    assert [slider.get_attribute(name) for name in ("min", "max", "step")] == ["64", "16384", "64"]
    field.fill(budget)
    field.press("Tab")
    assert slider.input_value() == budget
    visitor.check()
    visitor.picture("settings")
    page.get_by_role("button", name="Done").click()


@pytest.mark.parametrize("size", SIZES)
def test_two_settings_side_by_side(browser, shared, size):
    with Visitor(browser, shared, size) as visitor:
        page = visitor.page
        visitor.visit()
        visitor.pick("v1.mp4")
        compare(visitor, "1024")
        visitor.ask("Who?")
        turn = visitor.answered(1)
        one, other = (turn.locator(".variant-box").nth(n).bounding_box() for n in (0, 1))
        if size == "wide":
            assert other["x"] >= one["x"] + one["width"] and other["y"] == one["y"]
        table = turn.locator(".comparison").inner_text()
        assert "of 8,192" in table and "of 1,024" in table
        assert page.locator(".plot .lane").count() == 2 and visitor.tab_stops(".timeline") == 1
        assert page.evaluate("document.documentElement.scrollHeight") < 2600
        visitor.check()
        visitor.picture("compared")


def test_earlier_turns_are_sent_when_asked_for(browser, shared):
    with Visitor(browser, shared) as visitor:
        sent = []
        visitor.page.on("request", lambda r: r.url.endswith("/questions") and sent.append(r.post_data_json))
        visitor.visit()
        visitor.pick("v1.mp4")
        visitor.ask("Who?")
        visitor.answered(1)
        visitor.ask("Where?")
        visitor.answered(2)
        visitor.page.locator("#open-settings").click()
        visitor.page.get_by_role("switch", name="Send earlier questions and answers along").check()
        visitor.page.keyboard.press("Escape")
        visitor.ask("And then?")
        visitor.answered(3)
        turns = [message["content"] for message in sent[2]["history"]]
        assert turns == ["Who?", "v1.mp4 says Who?", "Where?", "v1.mp4 says Where?"]
        assert "history" not in sent[0] and "history" not in sent[1]


@pytest.mark.usefixtures("quick_compilation")
def test_xcomp_shows_which_frames_it_kept(browser, tokenizer, tmp_path):
    """A real, tiny one, whose answer is noise."""
    write_video(tmp_path / "v.mp4", SyntheticVideo(seconds=8, fps=8, height=40, width=48))
    model = XCompModel(xcomp_systems.micro(tokenizer), "micro")
    with server([tmp_path], model) as (address, _), Visitor(browser, address) as visitor:
        page = visitor.page
        visitor.visit()
        visitor.pick("v.mp4")
        page.locator("#open-settings").click()
        for name, value in (("max_new_tokens", "4"), ("budget", "160")):
            field = page.locator(f"[type=number][data-setting={name}]")
            assert field.get_attribute("placeholder") == ("automatic" if name == "budget" else "")
            field.fill(value)
            field.press("Tab")
        page.keyboard.press("Escape")
        visitor.ask("what is red?")
        said = visitor.answered(1).inner_text()
        assert "The answer was cut at 4 tokens" in said
        assert re.search(r"The \d+ (most relevant of \d+ )?frames? that were kept", said), said
        assert "tokens kept per frame (full height: 16)" in page.locator(".legend").inner_text()
        visitor.check()
        visitor.picture("xcomp")


@pytest.mark.parametrize("size,scheme", [("wide", "light"), ("phone", "dark")])
def test_the_demo_model_answers_questions_about_its_hour(browser, size, scheme):
    """`tempo serve` as it starts by itself; the second answer needs neither decoding nor the vision tower."""
    rows = [json.loads(line) for line in (HOUR / "questions.jsonl").read_text("utf-8").splitlines()[:2]]
    with (
        serving_process("-m", "tempo_jax.cli", "serve", "--port", "0") as (_, address, _),
        Visitor(browser, address.rstrip("/"), size, scheme, reduced_motion="reduce") as visitor,
    ):
        visitor.visit()
        visitor.wait_for("document.querySelector('#videos img')?.naturalWidth > 0")
        visitor.picture("library")
        visitor.pick(rows[0]["video"])
        said = []
        for number, row in enumerate(rows, 1):
            visitor.ask(row["conversations"][0]["value"].removeprefix("<video>\n"))
            turn = visitor.answered(number)
            said.append(turn.locator(".answer").inner_text().strip())
        visitor.wait_for("[...document.querySelectorAll('.thumb img')].every(i => i.naturalWidth)")
        assert "Saved by reuse" in turn.locator(".figures").inner_text()
        visitor.check()
        turn.locator(".thumb").last.click()
        visitor.wait_for("document.querySelector('video').currentTime > 60")
        visitor.wait_for("!document.querySelector('video').seeking")
        visitor.picture("demo")
        compare(visitor, "256")
        visitor.ask("How often is a cyan cross shown?")
        table = visitor.answered(3).locator(".comparison").inner_text()
        assert "of 8,192" in table and "of 256" in table
        visitor.check()
        visitor.picture("compared")
    for row, text in zip(rows, said, strict=True):
        letter = re.match(r"\(?([A-D])\b", text)
        assert option_of(letter[0] if letter else text, row["options"]) == row["answer_letter"], text
