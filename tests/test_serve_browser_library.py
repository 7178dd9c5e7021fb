"""What surrounds asking on the page, in a real browser: library, uploads, settings, history, signing in."""

import functools

import pytest

from tempo_jax.serve.app import Access
from tempo_jax.serve.pages import UI
from tests.browsing import SIZES, Visitor, chromium, tricky_library
from tests.serving import REPO, FakeModel
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


@pytest.mark.parametrize("size", SIZES)
def test_a_file_that_is_no_video(browser, tmp_path, size):
    (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(2000))
    with server([tmp_path]) as (address, _), Visitor(browser, address, size, expected=[400]) as visitor:
        visitor.visit()
        visitor.pick("broken.mp4")
        visitor.page.locator(".stage-note").wait_for()
        visitor.ask("What is it?")
        error = visitor.page.locator("article.turn .error")
        error.wait_for()
        assert error.get_attribute("role") == "alert"
        assert "could not be answered" in error.inner_text() and "broken.mp4" in error.inner_text()
        assert visitor.page.locator("#question").input_value() == "What is it?"
        visitor.check()
        visitor.picture("broken")


def test_settings_are_bounded_kept_and_reset(browser, shared):
    with Visitor(browser, shared) as visitor:
        page = visitor.page
        visitor.visit()
        visitor.pick("v1.mp4")
        page.locator("#open-settings").click()
        field = page.locator("[type=number][data-setting=temperature]")
        field.fill("9")
        field.press("Tab")
        assert field.input_value() == "2"
        page.keyboard.press("Escape")
        assert page.locator("#settings-summary").inner_text() == "Settings (1 changed)"
        page.reload()
        page.locator("#open-settings").click()
        assert field.input_value() == "2"
        page.get_by_role("button", name="Reset to the defaults").click()
        assert field.input_value() == "0"
        page.get_by_role("button", name="Close the settings").click()
        assert page.locator("#settings-summary").inner_text() == "Settings"


def test_history_link_and_copy(browser, shared):
    with Visitor(browser, shared, permissions=["clipboard-read", "clipboard-write"]) as visitor:
        page = visitor.page
        visitor.visit()
        visitor.pick("v0.mp4")
        page.get_by_role("button", name="What is in it?").click()
        assert "(B) that" in page.locator("#question").input_value()
        page.locator("#question").press("Enter")
        visitor.answered(1, "says What is in it?")
        page.reload()
        turn = visitor.answered(1, "says What is in it?")
        visitor.wait_for("document.querySelector('.plot .lane')")
        turn.get_by_role("button", name="Copy").click()
        page.locator("#toast").wait_for()
        clipboard = "navigator.clipboard.readText()"
        assert page.evaluate(clipboard).startswith("v0.mp4 says What is in it?")
        turn.locator(".thumb").click()
        turn.get_by_role("button", name="Share link").click()
        visitor.wait_for("navigator.clipboard.readText().then(text => text.includes('#video='))")
        link = page.evaluate(clipboard)
        page.get_by_role("button", name="Clear").click()
        assert page.locator("article.turn").count() == 0
        with Visitor(browser, shared) as other:
            other.visit(link.removeprefix(shared))
            other.wait_for("document.querySelector('video')?.currentTime === 6")
            assert other.page.locator("#question").input_value().startswith("What is in it?")


def test_an_empty_question_is_told_beside_the_box(browser, shared):
    with Visitor(browser, shared) as visitor:
        visitor.visit()
        visitor.pick("v1.mp4")
        visitor.page.locator("#ask").click()
        assert visitor.page.locator("#question-error").inner_text() == "Write a question first."
        assert visitor.page.locator("article.turn").count() == 0
        visitor.check()


def test_an_image_has_no_timeline(browser, shared):
    with Visitor(browser, shared) as visitor:
        visitor.visit()
        visitor.pick("still.png")
        visitor.wait_for("document.querySelector('.stage img').naturalWidth === 80")
        assert visitor.page.get_by_role("slider").count() == 0
        visitor.check()


def test_the_library_filters_by_name(browser, folder, tmp_path):
    for number in range(60):
        (tmp_path / f"clip {number:02}.mp4").write_bytes((folder / "v1.mp4").read_bytes())
    with server([tmp_path]) as (address, _), Visitor(browser, address) as visitor:
        visitor.visit()
        visitor.wait_for("document.querySelectorAll('#videos li').length === 48")
        visitor.page.get_by_role("button", name="Show more").click()
        visitor.wait_for("document.querySelectorAll('#videos li').length === 60")
        visitor.page.get_by_role("searchbox").fill("CLIP 1")
        visitor.wait_for("document.querySelectorAll('#videos li').length === 10")
        visitor.page.get_by_role("searchbox").fill("nothing")
        visitor.page.get_by_text("No name contains “nothing”.").wait_for()


def test_an_empty_library_says_what_to_do(browser):
    with server([]) as (address, _), Visitor(browser, address) as visitor:
        visitor.visit()
        visitor.page.get_by_text("upload a video to ask about").wait_for()
        visitor.check()


def test_uploads_can_be_canceled_refused_and_deleted(browser, folder):
    big = {"name": "big.mp4", "mimeType": "video/mp4", "buffer": bytes(900_000)}
    huge = {"name": "huge.mp4", "mimeType": "video/mp4", "buffer": bytes(1_100_000)}
    empty = {"name": "empty.mp4", "mimeType": "video/mp4", "buffer": b""}
    with server([], upload_bytes=1 << 20) as (address, _), Visitor(browser, address) as visitor:
        page = visitor.page
        visitor.visit()
        network = visitor.context.new_cdp_session(page)
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 10_000}
        network.send("Network.enable")
        # It stays: chromium sends all of a canceled request when its limit goes at that moment.
        network.send("Network.emulateNetworkConditions", slow)
        page.locator("#file").set_input_files([big])
        visitor.wait_for("document.querySelector('.upload progress').value > 1000")
        assert "left" in page.locator(".upload").inner_text()
        visitor.check()
        page.get_by_role("button", name="Cancel the upload of big.mp4").click()
        page.locator(".upload").wait_for(state="detached")
        page.locator("#file").set_input_files([huge, empty])
        page.get_by_text("cut it or scale it down").wait_for()
        page.get_by_text("This file is empty").wait_for()
        visitor.check()
        page.get_by_role("button", name="Dismiss").first.click()
        page.locator("#file").set_input_files(folder / "v1.mp4")
        page.locator("#question").wait_for()
        page.locator("#all-videos").click()
        visitor.wait_for("document.querySelector('#videos img')?.naturalWidth > 0")
        # A list from before the deletion that arrives after it changes nothing.
        held = []
        page.route("**/api/videos?*", lambda route: held.append((route, route.fetch())), times=1)
        with page.expect_request("**/api/videos?*"):
            page.evaluate("dispatchEvent(new HashChangeEvent('hashchange'))")
        page.get_by_role("button", name="Delete v1.mp4").click()
        page.get_by_text("There is nothing here yet").wait_for()
        ((route, late),) = held
        assert late.json()["total"] == 1
        with page.expect_response("**/api/videos?*"):
            route.fulfill(response=late)
        page.get_by_text("There is nothing here yet").wait_for()
        assert not page.locator("#videos li").count()


def test_a_file_may_be_dropped_anywhere(browser, shared):
    """While another video is open too. What is no video is told as that where it would be shown."""
    with Visitor(browser, shared, expected=[400]) as visitor:
        page = visitor.page
        visitor.visit()
        visitor.pick("v1.mp4")
        given = page.evaluate_handle(
            """() => {
              const given = new DataTransfer();
              given.items.add(new File(["no video"], "dropped.mp4"));
              return given;
            }"""
        )
        page.dispatch_event("#log", "dragover", {"dataTransfer": given})
        assert page.locator("#drop-veil").is_visible()
        page.dispatch_event("#log", "drop", {"dataTransfer": given})
        assert page.locator("#drop-veil").is_hidden()
        page.locator("#subject").get_by_text("dropped.mp4").wait_for()
        page.locator(".stage-note").wait_for()


@pytest.mark.parametrize("size", SIZES)
def test_signing_in_and_out(browser, folder, size):
    with (
        server([folder], access=Access("right")) as (address, _),
        Visitor(browser, address, size, expected=[401]) as visitor,
    ):
        page = visitor.page
        visitor.visit()
        page.get_by_label("Token", exact=True).fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("token").wait_for()
        visitor.check()
        page.get_by_label("Token", exact=True).fill("right")
        page.get_by_role("button", name="Sign in").click()
        visitor.pick("v1.mp4")
        visitor.ask("Who?")
        visitor.answered(1)
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Token", exact=True).wait_for()
        assert page.evaluate("Object.keys(localStorage).filter(key => key.includes('turns'))") == []
        visitor.visit("/#token=right")
        page.locator("#videos li").first.wait_for()
        assert "right" not in page.url
