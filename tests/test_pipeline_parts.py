"""What the input pipeline is made of: packing, the needs of samples, sources by name."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from tempo_jax.data import batch_packing, loader, minireel, sources
from tempo_jax.data.batch_packing import Need, Shape
from tempo_jax.data.samples import TooLong
from tempo_jax.data.sources import open_source
from tempo_jax.errors import TempoError
from tempo_jax.models.presets import TINY
from tempo_jax.prompts import Tokenizer
from tempo_jax.tasks import TASKS, svlm
from tempo_jax.tasks.tempo import collate
from tests.memory_data import Numbered, sample


@pytest.fixture(scope="module")
def tokenizer(demo_tokenizer_dir):
    return Tokenizer(demo_tokenizer_dir)


# Packing

needs = st.builds(lambda segments: Need(segments, 10 * segments, 10, 20), segments=st.integers(1, 12))
SMALL = Shape(pool=12, row_length=10, conversations=3, length=20)


@given(st.lists(needs, min_size=1, max_size=60), st.integers(1, 10))
def test_every_sample_is_placed_once_and_soon_and_batches_fit(stream, size):
    waiting, placed, number = list(enumerate(stream)), [], 0
    window, since = [], {}
    while waiting or window:
        while waiting and len(window) < size:
            window.append(waiting.pop(0))
            since[window[-1][0]] = number
        chosen = batch_packing.choose([need for _, need in window], SMALL)
        assert chosen == batch_packing.choose([need for _, need in window], SMALL) == sorted(set(chosen))
        batch = [window[i] for i in chosen]
        assert chosen[0] == 0  # the one that waited longest
        assert len(batch) <= SMALL.conversations
        assert sum(need.segments for _, need in batch) <= SMALL.pool
        left = [entry for i, entry in enumerate(window) if i not in chosen]
        room = SMALL.pool - sum(need.segments for _, need in batch)
        full = len(batch) == SMALL.conversations
        assert full or all(need.segments > room for _, need in left)  # nothing more would have fitted
        assert all(number - since[name] < size for name, _ in batch)
        placed += [name for name, _ in batch]
        window, number = left, number + 1
    assert sorted(placed) == list(range(len(stream)))


def test_waste_is_the_share_left_empty():
    used = batch_packing.usage([Need(3, 24, 9, 15), Need(6, 60, 10, 20)], SMALL)
    used += batch_packing.usage([Need(12, 120, 10, 20)], SMALL)
    assert batch_packing.waste(used) == pytest.approx(
        {"segments": 1 - 21 / 24, "compressor_tokens": 1 - 204 / 240, "llm_tokens": 1 - 55 / 120}
    )


def test_too_long_says_what_does_not_fit():
    for need, what in (
        (Need(13, 10, 10, 20), "more than 12 segments"),
        (Need(1, 11, 11, 20), "more than 10 compressor tokens in a segment"),
        (Need(1, 10, 10, 21), "more than 20 LLM tokens"),
    ):
        assert batch_packing.too_long(need, SMALL) == what
    assert batch_packing.too_long(Need(12, 120, 10, 20), SMALL) is None


# Needs

IMAGE = dataclasses.replace(sample(1), frames=np.zeros((1, 64, 96, 3), np.uint8), real_fps=None)
SHORT_END = dataclasses.replace(sample(1), frames=np.zeros((19, 64, 96, 3), np.uint8), start_seconds=95.0)


@pytest.mark.parametrize("given", [sample(1, segments=13), IMAGE, SHORT_END])
def test_need_is_what_collate_takes(given, tokenizer):
    need = TASKS["tempo"].sample_size(given, tokenizer, TINY)
    fits = {"pool": need.segments, "row_length": need.longest_row, "conversations": 1, "length": need.tokens}
    made = collate([given], tokenizer, TINY, Shape(**fits))
    assert need.compressor_tokens == made.row_length_P.sum() + need.segments * TINY.memory_tokens
    for name in fits:
        with pytest.raises(TooLong):
            collate([given], tokenizer, TINY, Shape(**(fits | {name: fits[name] - 1})))


def unmarked(given):
    talk = [turn | {"value": turn["value"].replace("<image>", "")} for turn in given.conversation]
    return dataclasses.replace(given, conversation=talk)


def test_need_of_a_segment_conversation(tokenizer):
    given, vlm = sample(1), TINY.compressor
    with pytest.raises(ValueError, match="an <image> mark: the task svlm takes"):
        TASKS["svlm"].sample_size(given, tokenizer, vlm)
    given = unmarked(given)
    need = TASKS["svlm"].sample_size(given, tokenizer, vlm)
    fits = Shape(pool=1, row_length=need.longest_row, conversations=1, length=1)
    svlm.collate([given], tokenizer, vlm, fits)
    with pytest.raises(TooLong):
        svlm.collate([given], tokenizer, vlm, dataclasses.replace(fits, row_length=fits.row_length - 1))
    with pytest.raises(ValueError, match="16 frames"):
        TASKS["svlm"].sample_size(unmarked(sample(1, segments=2)), tokenizer, vlm)


# Sources


def test_mistakes_in_a_source_are_one_sentence(monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "Numbered", Numbered)
    for fields, message in (
        ({"kind": "youtube"}, "no data source of kind 'youtube': choose from prepared, prepared_part"),
        ({"kind": "minireel", "fsp": 2}, "has no field 'fsp': it may have split, count"),
        ({"kind": "prepared"}, "needs the field 'path'"),
        ({"kind": "Numbered", "count": 0}, "Numbered \\(count=0\\) has no samples"),
        ({"kind": "minireel", "forms": {"rhyme": 1.0}}, "no form 'rhyme': choose from choice, text, worded"),
        ({"kind": "minireel_noted", "forms": {"rhyme": 1.0}}, "no form 'rhyme'"),
        ({"kind": "minireel_noted", "forms": {"text": -1.0}}, "not below 0"),
        ({"kind": "minireel", "kinds": ("why",)}, "no kind 'why'"),
        ({"kind": "minireel_noted", "kinds": ("why",)}, "no kind 'why'"),
        ({"kind": "minireel_noted", "slots": 0}, "slots and budget of at least 1"),
        ({"kind": "minireel", "seconds": 1}, "1 seconds is not between"),
    ):
        with pytest.raises(TempoError, match=message):
            open_source(ConfigDict(fields))


def test_minireel_asks_every_question_of_a_reel():
    source = sources.SOURCES["minireel"](count=3, seconds=64, size=32, forms={"choice": 1.0})
    reel = minireel.make("train", 1, seconds=64, size=32)
    per_reel = len(source) // 3
    asked = [source[i].conversation[0]["value"] for i in range(per_reel, 2 * per_reel)]
    assert set(asked) == {f"<image>\n{question.prompt}" for question in reel.questions}
    first = source[per_reel]
    frames = np.stack([first.frames[i] for i in range(len(first.frames))])
    assert first.real_fps == 2.0 and first.frames.shape == frames.shape
    np.testing.assert_array_equal(frames, reel.frames(range(reel.spec.num_frames)))


def test_minireel_draws_lengths_and_forms_by_index():
    fields = {"count": 40, "seconds": (8, 16), "size": 32, "forms": {"choice": 0.75, "text": 0.25}}
    source, again = sources.SOURCES["minireel"](**fields), sources.SOURCES["minireel"](**fields)
    samples = [source[i] for i in range(0, len(source), 2)]
    lengths = {len(s.frames) for s in samples}
    chosen = np.mean(["(A)" in s.conversation[0]["value"] for s in samples])
    assert lengths == {16, 32} and 0.6 < chosen < 0.9
    for i in (0, 17, 33):
        assert source[i].conversation == again[i].conversation


def test_words_go_with_frames_of_any_size():
    words, reels = (sources.SOURCES[kind](count=3) for kind in ("minireel_noted", "minireel"))
    assert loader._sizes((), [words, reels]) == ((64, 64),) == loader._sizes((), [reels, words])
    assert loader._sizes((), [words]) == (loader.NO_SIZE,)
    with pytest.raises(TempoError, match="2 sizes, height x width 64x64"):
        loader._sizes((), [words, reels, sources.SOURCES["minireel"](count=3, size=32)])
