"""What the page shows, without a browser; and the page itself mounted on the server, where Gradio is."""

import asyncio
import dataclasses
import itertools
import re
import xml.etree.ElementTree

import pytest

from tempo_jax.inference.results import Answer, Segment
from tempo_jax.serve import settings, views
from tempo_jax.serve.drawing import allocation_svg, heat
from tempo_jax.serve.service import Done

SVG = "{http://www.w3.org/2000/svg}"


def done(count=3, **changes):
    segments = [
        Segment(i, 4.0 * i, 4.0 * i + 4, 0.9 if i == 1 else 0.1, 128 if i == 1 else 4) for i in range(count)
    ]
    usage = dict.fromkeys(("frames", "segments", "budget", "visual_tokens", "prompt_tokens", "new_tokens"), 7)
    answer = Answer("It.", [1], segments, {**usage, "tokens_per_frame": 1.5}, {}, ["<b>Beware</b>."])
    values = {"reused": False, "open_seconds": 2.5, "thumbnails": [b"jpeg"] * count, "batch": 1}
    return Done(answer, **{**values, **changes})


@pytest.mark.parametrize("count", [1, 3, 300])
def test_every_segment_of_the_plot_seeks(count):
    svg = allocation_svg(done(count).answer.segments, (4, 128), "player")
    root = xml.etree.ElementTree.fromstring(svg)
    targets = [g for g in root.iter(SVG + "g") if "data-seconds" in g.attrib]
    assert [float(g.attrib["data-seconds"]) for g in targets] == [4.0 * i for i in range(count)]
    edges = [(float(r.attrib["x"]), float(r.attrib["width"])) for g in targets for r in [g[-1]]]
    for (left, width), (following, _) in itertools.pairwise(edges):
        assert left + width == pytest.approx(following, abs=0.11)


def test_the_plot_shows_tokens_by_colour():
    segments = done().answer.segments
    root = xml.etree.ElementTree.fromstring(allocation_svg(segments, (4, 128), "player"))
    fills = [g[1].attrib["fill"] for g in root.iter(SVG + "g") if "data-seconds" in g.attrib]
    assert fills == [heat(4 / 128), heat(1.0), heat(4 / 128)]
    assert heat(0) == "#eef4fb" and heat(1) == "#5e0b2b"


def test_frames_that_nothing_was_chosen_from_have_no_relevance():
    """XComp's, of videos that stay whole."""
    whole = done()
    whole.answer.segments[:] = [dataclasses.replace(s, relevance=float("nan")) for s in whole.answer.segments]
    for shown in views.done(whole, "player"):
        assert "nan" not in shown
    xml.etree.ElementTree.fromstring(views.done(whole, "player")[1])


def test_an_image_has_no_plot():
    assert allocation_svg([], (4, 128), "player") == ""


def test_statistics_say_what_is_saved_and_escape():
    assert "took 2.5 s" in views.statistics(done())
    assert "saved the 2.5 s" in views.statistics(done(reused=True))
    assert "&lt;b&gt;Beware" in views.statistics(done())


def test_thumbnails_of_the_most_looked_at_in_the_order_of_time():
    html = views.thumbnails(done(10), "player")
    seconds = [float(s) for s in re.findall(r'data-seconds="([\d.]+)"', html)]
    assert len(seconds) == views.MOST_THUMBNAILS and seconds == sorted(seconds) and 4.0 in seconds
    assert views.thumbnails(done(thumbnails=[]), "player") == ""


def test_published_ranges():
    sliders = {name: s.slider for name, s in settings.SETTINGS.items() if s.slider}
    assert sliders == {
        "budget": (64, 16_384, 64),
        "max_frames": (16, 2048, 16),
        "max_new_tokens": (64, 4096, 64),
        "temperature": (0, 1, 0.1),
    }
    for setting in settings.SETTINGS.values():
        if setting.slider:
            assert setting.low <= setting.slider[0] and setting.slider[1] <= setting.high


def test_the_page_is_served_beside_the_api(tmp_path):
    missing = "needs pip install 'tempo_jax[serve]' httpx2"
    httpx = pytest.importorskip("httpx2", reason=missing)
    pytest.importorskip("gradio", reason=missing)
    from tempo_jax.serve import app, page, run
    from tempo_jax.serve.files import Library, Uploads
    from tests.serving import make_videos, service_of

    make_videos(tmp_path, 1)
    row = '{"video": "v0.mp4", "conversations": [{"value": "<video>\\nWhat is it?"}]}'
    (tmp_path / "questions.jsonl").write_text(row + "\n")
    with service_of() as service:
        library, uploads = Library([tmp_path]), Uploads(service.limits)
        assert page.example_rows(library) == [["v0.mp4", "What is it?"]]
        made = app.create_app(service, library, uploads, app.Access("a-secret-token"))
        page.mount(made, service, library, uploads)
        with run.running(made.state.guarded, service) as address:
            assert httpx.get(address + "/", timeout=120).status_code == 401
            with httpx.Client(follow_redirects=True, timeout=120) as browser:
                first = browser.get(address + "/?token=a-secret-token")
                assert first.status_code == 200 and "Tempo" in first.text
                assert browser.get(address + "/v1/models").json()["data"][0]["id"] == "fake"
        uploads.close()


def test_the_page_fetches_nothing(tmp_path):
    gradio = pytest.importorskip("gradio", reason="needs pip install 'tempo_jax[serve]'")
    from tempo_jax.serve import page
    from tempo_jax.serve.app import create_app
    from tempo_jax.serve.files import Library, Uploads
    from tests.serving import service_of

    with service_of() as service:
        uploads = Uploads(service.limits)
        page.mount(create_app(service, Library([]), uploads), service, Library([]), uploads)
        with pytest.raises(gradio.Error, match="fetches nothing"):
            page.processing_utils.save_url_to_cache("http://127.0.0.1/v.mp4", str(tmp_path))
        uploads.close()


def test_one_question_with_two_settings(tmp_path):
    """What the button does, without a browser: both answers stream, with plot and thumbnails."""
    pytest.importorskip("gradio", reason="needs pip install 'tempo_jax[serve]'")
    from tempo_jax.serve import page
    from tempo_jax.serve.files import Library
    from tests.serving import make_videos, service_of

    (path,) = make_videos(tmp_path, 1)
    chosen = [64, 1024, 64, 0.0, "head", True]
    values = [*chosen, *([128] + chosen[1:])]

    async def updates(service):
        asking = page.Asking(service, Library([tmp_path])).run(str(path), "Who?", [], [], True, *values)
        return [update async for update in asking]

    with service_of() as service:
        got = asyncio.run(updates(service))
    final = got[-1]
    for chat, statistics, plot, thumbnails in (final[1:5], final[5:9]):
        assert [m["content"] for m in chat] == ["Who?", "v0.mp4 says Who?"]
        assert "svg" in plot and "jpeg" in thumbnails and "visual tokens" in statistics
    assert "took" in final[2] and "open already" in final[6]
    assert any(update[1][-1]["content"] == "v0.mp4 says" for update in got)
