"""Questions answered together: each as if it had been asked alone; and the service around a real model."""

import pytest

from tempo_jax.data import demo_tokenizer
from tempo_jax.errors import TempoError
from tempo_jax.models.config import VideoConfig
from tempo_jax.prompts import Tokenizer
from tempo_jax.runtime.session import GenerationRequest
from tempo_jax.serve.model import TempoModel, prefix_bytes
from tempo_jax.tempo.options import Options
from tests import systems
from tests.serving import Heard, make_videos, service_of

QUESTIONS = ("What colour is the ball?", "Who?", "Where does the second scene take place?")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    demo_tokenizer.write(folder, fill=True)  # names every id, so that random answers are text
    tempo = systems.tiny_tempo(Tokenizer(folder), video=VideoConfig(min_pixels=16_384))
    return tempo.open(systems.recorded_frames(1, 20, 64, 128), prefix_cache=True)


def test_each_answer_is_as_if_asked_alone(clip):
    options = [Options(max_new_tokens=12, budget=40), Options(max_new_tokens=5, budget=30)]
    options += [Options(max_new_tokens=9, temperature=0.8, seed=4)]
    alone = [clip.tempo.ask(clip_frames(), q, **values(o)) for q, o in zip(QUESTIONS, options)]
    pieces = [[], [], []]
    turns = [GenerationRequest(q, o, on_text=p.append) for q, o, p in zip(QUESTIONS, options, pieces)]
    clip.answer(turns)
    for one, turn, piece in zip(alone, turns, pieces):
        assert turn.answer.token_ids == one.token_ids and turn.answer.text == one.text
        assert "".join(piece) == one.text
        assert [s.tokens for s in turn.answer.segments] == [s.tokens for s in one.segments]


def clip_frames():
    return systems.recorded_frames(1, 20, 64, 128)


def values(options):
    return {name: getattr(options, name) for name in ("max_new_tokens", "budget", "temperature", "seed")}


def test_a_mistake_and_a_cancelled_turn_leave_the_others(clip):
    heard = []
    options = Options(max_new_tokens=30)
    turns = [
        GenerationRequest("Who?", options, on_text=heard.append, is_cancelled=lambda: bool(heard)),
        GenerationRequest("x" * 20_000, options),
        GenerationRequest("Who?", options),
        GenerationRequest("Never", options, is_cancelled=lambda: True),
    ]
    clip.answer(turns)
    assert turns[0].answer is None and heard
    assert isinstance(turns[1].error, TempoError)
    assert len(turns[2].answer.token_ids) == 30 or turns[2].answer.token_ids[-1] in clip.tempo.config.eos_ids
    assert turns[3].answer is None and turns[3].error is None


def test_the_size_of_a_prefix_is_known_before_it_is_made(clip):
    assert prefix_bytes(clip) == clip.held_bytes["prefix"]


def test_the_service_with_a_real_model(clip, tmp_path):
    (path,) = make_videos(tmp_path, 1)
    with service_of(TempoModel(clip.tempo, "tiny")) as service:
        first = Heard(service, path, "Who?", max_new_tokens=6).end()
        again = Heard(service, path, "Who?", max_new_tokens=6).end()
        assert service.store.held_bytes > 0
    assert not first.reused and again.reused
    assert first.answer.token_ids == again.answer.token_ids
    assert first.answer.token_ids == clip.tempo.ask(str(path), "Who?", max_new_tokens=6).token_ids
