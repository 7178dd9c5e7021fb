"""Answers about several videos decoded together: each as if it had been asked alone."""

import threading

import pytest

from tempo_jax.data import demo_tokenizer
from tempo_jax.prompts import Tokenizer
from tempo_jax.runtime.session import GenerationRequest
from tempo_jax.serve.model import TempoModel, XCompModel
from tests import systems, xcomp_systems
from tests.serving import Heard, make_videos, service_of

pytestmark = pytest.mark.usefixtures("quick_compilation")
QUESTIONS = ("What color is the ball?", "Who?", "Where does the second scene take place, and who is in it?")
TEMPO = (
    {"max_new_tokens": 30, "budget": 40},
    {"max_new_tokens": 70, "budget": 30},  # another capacity of the cache
    {"max_new_tokens": 25, "temperature": 0.8, "top_p": 0.9, "seed": 4},
    {"max_new_tokens": 20, "temperature": 1.2, "seed": 5},
)
XCOMP = (
    {"max_new_tokens": 30},
    {"max_new_tokens": 70, "repetition_penalty": 1.3},
    {"max_new_tokens": 25, "temperature": 0.8, "seed": 4},
)


@pytest.fixture(scope="module", params=["tempo", "xcomp"])
def clips(request, tmp_path_factory):
    """Videos of several lengths."""
    folder = tmp_path_factory.mktemp("tokenizer")
    demo_tokenizer.write(folder, fill=True)  # names every id, so that random answers are text
    tokenizer = Tokenizer(folder)
    if request.param == "tempo":
        system = systems.tiny_tempo(tokenizer)
        frames = [
            systems.recorded_frames(seed, length, 64, 128) for seed, length in ((1, 20), (2, 9), (3, 17))
        ]
    else:
        system = xcomp_systems.micro(tokenizer)
        frames = [xcomp_systems.moving(length) for length in (8, 24, 16)]
    return [system.open(array) for array in frames]


def requests_of(clips):
    """(clip, question, options)"""
    settings = TEMPO if hasattr(clips[0], "layout") else XCOMP
    return [
        (clips[number % len(clips)], QUESTIONS[number % len(QUESTIONS)], options)
        for number, options in enumerate(settings)
    ]


def test_requests_join_and_leave_at_any_step(clips):
    asked = requests_of(clips)
    alone = [clip.ask(question, **options).token_ids for clip, question, options in asked]
    batch = clips[0].system.decode_batch
    requests = [GenerationRequest(question, clip.options(**options)) for clip, question, options in asked]
    joined = []
    for (clip, _, _), request in zip(asked, requests, strict=True):
        joined += batch.join(clip, [request])
        batch._step()
    batch.finish(joined)
    assert [request.answer.token_ids for request in requests] == alone
    assert batch._state is None, "the caches are freed"


def test_threads_decode_for_each_other(clips):
    asked = requests_of(clips)
    alone = [clip.ask(question, **options).token_ids for clip, question, options in asked]
    by_clip = {clip: [] for clip, _, _ in asked}
    requests = []
    for clip, question, options in asked:
        requests.append(GenerationRequest(question, clip.options(**options)))
        by_clip[clip].append(requests[-1])
    threads = [threading.Thread(target=clip.answer, args=(some,)) for clip, some in by_clip.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [request.answer.token_ids for request in requests] == alone


def test_a_failing_listener_and_a_cancelled_request_leave_the_others(clips):
    clip, other = clips[:2]
    alone = other.ask("Who?", max_new_tokens=30).token_ids
    heard = []

    def fail(text):
        raise ValueError(text)

    requests = [
        GenerationRequest("Who?", clip.options(max_new_tokens=30), on_text=fail),
        GenerationRequest(
            "Who?", clip.options(max_new_tokens=30), on_text=heard.append, is_cancelled=lambda: bool(heard)
        ),
    ]
    last = GenerationRequest("Who?", clip.options(max_new_tokens=30))
    batch = clip.system.decode_batch
    joined = batch.join(clip, requests) + batch.join(other, [last])
    batch.finish(joined)
    assert isinstance(requests[0].error, ValueError) and requests[0].answer is None
    assert requests[1].answer is None and heard
    assert last.answer.token_ids == alone


@pytest.mark.parametrize("where", ["while rows are gathered", "while tokens are decoded"])
def test_an_error_of_a_step_ends_every_answer(clips, monkeypatch, where):
    from tempo_jax.runtime import batching, generate

    def decode_fails(llm, state, *args, **kwargs):
        state.done_B.delete()  # donated
        raise RuntimeError("RESOURCE_EXHAUSTED")

    def gather_fails(*args):
        raise RuntimeError("RESOURCE_EXHAUSTED")

    if where == "while rows are gathered":
        monkeypatch.setattr(batching, "gather_rows", gather_fails)
    else:
        monkeypatch.setattr(generate, "decode", decode_fails)
    requests = [GenerationRequest("Who?", clip.options(max_new_tokens=30)) for clip in clips]
    batch = clips[0].system.decode_batch
    joined = [
        active
        for clip, request in zip(clips, requests, strict=True)
        for active in batch.join(clip, [request])
    ]
    batch.finish(joined)
    assert all("RESOURCE_EXHAUSTED" in str(request.error) for request in requests)
    assert batch._state is None


def test_users_of_several_videos_are_served_together(clips, tmp_path):
    paths = make_videos(tmp_path, 3)
    system = clips[0].system
    model = (TempoModel if hasattr(clips[0], "layout") else XCompModel)(system, "tiny")
    alone = [system.ask(str(path), "Who?", max_new_tokens=40).token_ids for path in paths]
    with service_of(model) as service:
        heard = [Heard(service, path, "Who?", max_new_tokens=40) for path in paths for _ in range(2)]
        answers = [one.end().answer.token_ids for one in heard]
    assert answers == [ids for ids in alone for _ in range(2)]
