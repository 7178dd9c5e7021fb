"""The service around XComp: its own settings, answers as alone, what it holds, cancelling, loading."""

import pytest

from tempo_jax import checkpoint
from tempo_jax.data.minireel import tokenizer as minireel_tokenizer
from tempo_jax.errors import TempoError
from tempo_jax.serve import model as models
from tempo_jax.serve import settings
from tempo_jax.serve.model import XCompModel
from tempo_jax.serve.service import Progress
from tempo_jax.serve.store import FrameSampling
from tempo_jax.video.synthetic import SyntheticVideo, write_video
from tests import xcomp_systems as tiny
from tests.serving import Heard, service_of, serving_process, wait_until

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def model(tokenizer):
    return XCompModel(tiny.micro(tokenizer), "micro")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "v.mp4"
    write_video(path, SyntheticVideo(seconds=8, fps=8, height=40, width=48))
    return path


def test_settings_that_are_not_given_are_its_own(model):
    frames, options = settings.read({"max_new_tokens": 3, "budget": None}, model)
    assert frames == FrameSampling(8.0, 128, 1024)
    assert (options.budget, options.strategy, options.max_new_tokens) == (None, "local", 3)
    with pytest.raises(TempoError, match="one of local, global, uniform"):
        settings.read({"strategy": "head"}, model)


def test_settings_are_published_with_its_own_defaults(model):
    rows = {row["name"]: row for row in settings.described(model)}
    names = ("budget", "max_frames", "max_new_tokens", "temperature", "strategy", "compress")
    assert [rows[name]["default"] for name in names] == [None, 1024, 1024, 0.0, "local", True]
    assert rows["strategy"]["choices"] == ["local", "global", "uniform"]


def test_answers_are_as_if_asked_alone(model, video):
    alone = model.xcomp.ask(str(video), "what is red?", budget=300, max_new_tokens=4)
    with service_of(model) as service:
        whole = Heard(service, video, "what is red?", max_new_tokens=4).end()
        held = service.store.held_bytes
        heard = Heard(service, video, "what is red?", budget=300, max_new_tokens=4)
        chosen = heard.end()
        pools = chosen_pools(service)
    assert not whole.reused and chosen.reused
    assert chosen.answer.token_ids == alone.token_ids and chosen.answer.segments == alone.segments
    assert {s.tokens for s in whole.answer.segments} == {16}
    assert len(whole.thumbnails) == len(whole.answer.segments) == 64  # a frame is a segment
    assert 0 < pools <= held
    assert any(isinstance(event, Progress) and event.stage == "generating" for event in heard.events)


def chosen_pools(service):
    """Device bytes of the one open video's visual tokens."""
    (opened,) = service.store._items.values()
    return sum(pool.nbytes for pool in opened.clip.frames._visual_tokens.values())


def test_a_mistake_concerns_one_question_and_a_cancelled_one_stops(model, video):
    with service_of(model) as service:
        wrong = Heard(service, video, "what is red?", budget=1)
        assert "at least 128" in str(wrong.end().error)
        left = Heard(service, video, "what is red?", max_new_tokens=2000)
        wait_until(lambda: any(getattr(event, "text", "") for event in left.events))
        service.cancel(left.job)
        wait_until(lambda: service.running == 0)
        assert not any(type(event).__name__ in ("Completed", "Failed") for event in left.events)


def test_a_checkpoint_is_served_by_what_it_holds(tmp_path):
    minireel_tokenizer.write(tmp_path / "tokenizer")
    checkpoint.save(tmp_path / "small", "xcomp", tiny.MICRO, tiny.micro_parameters(), tmp_path / "tokenizer")
    served = models.load(tmp_path / "small")
    assert isinstance(served, XCompModel) and served.name == "xcomp-small"


def test_the_command_serves_it(tmp_path, video):
    """As a user does: the checkpoint's folder, a question about a video by OpenAI's API and by ours."""
    httpx = pytest.importorskip("httpx2", reason="needs pip install -e '.[serve]' httpx2")
    pytest.importorskip("uvicorn", reason="needs pip install -e '.[serve]'")
    minireel_tokenizer.write(tmp_path / "tokenizer")
    checkpoint.save(tmp_path / "small", "xcomp", tiny.MICRO, tiny.micro_parameters(), tmp_path / "tokenizer")
    arguments = ["--checkpoint", str(tmp_path / "small"), "--folder", str(video.parent), "--port", "0"]
    settings_given = {"max_new_tokens": 3, "min_frames": 8, "max_frames": 8}
    with (
        serving_process("-m", "tempo_jax.cli", "serve", *arguments) as (_, address, _),
        httpx.Client(base_url=address, timeout=300) as client,
    ):
        assert client.get("/api/info").json()["model"]["system"] == "xcomp"
        part = {"type": "video_url", "video_url": {"url": "v.mp4"}}
        messages = [{"role": "user", "content": [part, {"type": "text", "text": "what is red?"}]}]
        body = {"model": "xcomp-small", "messages": messages, "tempo": settings_given}
        values = client.post("/v1/chat/completions", json=body).json()
        kept = [segment["tokens"] for segment in values["tempo"]["segments"]]
        assert kept == [16] * 8
        listed = client.get("/api/videos").json()["videos"][0]["id"]
        asked = {"video": listed, "question": "what is red?", "settings": settings_given}
        text = client.post("/api/questions", json=asked).text
    assert "event: done" in text and '"video_reused": true' in text
