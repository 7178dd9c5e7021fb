"""The tasks beside Tempo's own: small VLM alone, LLM alone; and conversations without pictures."""

import dataclasses
import re

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies as st
from ml_collections import ConfigDict

from tempo_jax import prompts
from tempo_jax.data import minireel
from tempo_jax.data.batch_packing import BatchShape, first_fit_decreasing
from tempo_jax.data.minireel import questions, sources
from tempo_jax.data.minireel.sources import (
    EVIDENCE_PROMPT,
    ClipCaptionSource,
    SegmentEvidenceSource,
    SegmentSource,
)
from tempo_jax.data.minireel.text_sources import NO_FRAMES, CaptionTextSource, EvidenceTextSource
from tempo_jax.data.samples import Sample, SampleTooLong
from tempo_jax.data.sources import open_source
from tempo_jax.models import build
from tempo_jax.models.presets import XCOMP_DEMO
from tempo_jax.prompts import IGNORE
from tempo_jax.tasks import TASKS
from tempo_jax.tasks.tempo import collate
from tests.small_demo import DEMO

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE = BatchShape(segments=4, compressor_length=160, sequences=3, sequence_length=420)
PARTS = {"tempo": DEMO, "align": DEMO, "compressor": DEMO.compressor, "llm": DEMO.llm, "xcomp": XCOMP_DEMO}


@pytest.fixture(scope="module")
def tempo():
    return build.init(DEMO, 1)


def told(index: int) -> Sample:
    return CaptionTextSource("train", 100, (16,))[index]


def test_words_cost_tempo_what_they_cost_the_llm_alone(tokenizer, tempo):
    samples = [told(0), told(1)]
    size = dataclasses.replace(SHAPE, size=(64, 64))
    whole = TASKS["tempo"].collate(samples, tokenizer, DEMO, size)
    alone = TASKS["llm"].collate(samples, tokenizer, DEMO.llm, SHAPE)
    assert whole.frames_PFHWC.shape == (4, 8, 64, 64, 3)
    assert (whole.memory_index_BL == -1).all()
    ours = jax.jit(TASKS["tempo"].loss)(tempo, jax.tree.map(jnp.asarray, whole))
    theirs = jax.jit(TASKS["llm"].loss)(tempo.llm, jax.tree.map(jnp.asarray, alone))
    assert float(ours.tokens) == float(theirs.tokens) > 50
    np.testing.assert_allclose(float(ours.total), float(theirs.total), rtol=1e-5)


def test_small_vlm_is_asked_in_the_compressors_own_prompt(tokenizer, tempo):
    """Its hidden state where the answer begins is the one that relevance is read from."""
    sample = next(s for s in map(SegmentSource("train", 99, (64,)).__getitem__, range(99)) if _asks(s))
    batch = TASKS["compressor"].collate([sample], tokenizer, DEMO.compressor, SHAPE)
    answer = int(np.flatnonzero(batch.labels_PL[0] != IGNORE)[0])
    assert tokenizer.decode(batch.labels_PL[0, answer : answer + 1]) in ("Yes", "No")
    question = sample.conversation[1]["value"].removeprefix("\nQuery:\n")
    times = sample.start_seconds + (np.arange(4) * 2 + 0.5) / sample.real_fps
    row = [*tokenizer.prefix_row(list(times), 16), *tokenizer.question_ids(question)]
    assert batch.rows.token_ids_SL[0, :answer].tolist() == row

    @jax.jit
    def both(model, batch, length):
        visual = model.encode_frames(batch.frames_PFHWC)
        x, deepstack = model.embed(visual, batch.rows)
        hidden = model.text(x, batch.rows.positions_3SL, deepstack_FBLD=deepstack)[0, length - 1]
        model.relevance.direction[...] = hidden / jnp.linalg.norm(hidden)
        _, relevance = model(visual, batch.rows, jnp.full(SHAPE.segments, length))
        return relevance[0], jax.nn.sigmoid(jnp.linalg.norm(hidden))

    got, want = both(tempo.compressor, jax.tree.map(jnp.asarray, batch), answer)
    np.testing.assert_allclose(float(got), float(want), rtol=1e-6)


def test_conversations_in_one_row_do_not_see_each_other(tokenizer, tempo):
    """Packed or each in a row of its own: the same loss, and the same gradients."""
    clip = SegmentSource("train", 9)[0].frames
    turns = [{"from": "human", "value": "<image>\nWhat colour is the star?"}, {"from": "gpt", "value": "red"}]
    samples = [told(0), Sample(clip, 2.0, turns), told(2)]
    shape = dataclasses.replace(SHAPE, sequences=1, sequence_length=900, size=(64, 64))
    graph, weights, rest = nnx.split(tempo, nnx.Param, ...)

    @jax.jit
    def both(params, batch):
        def total(params):
            found = TASKS["tempo"].loss(nnx.merge(graph, params, rest), batch)
            return found.total, found.tokens

        return jax.value_and_grad(total, has_aux=True)(params)

    def of(some):
        return jax.tree.map(jnp.asarray, TASKS["tempo"].collate(some, tokenizer, DEMO, shape))

    (loss, tokens), grads = both(weights, of(samples))
    apart = [both(weights, of([sample])) for sample in samples]
    (wanted, count), expected = jax.tree.map(lambda *parts: sum(parts), *apart)
    assert of(samples).conversation_BL.max() == 3
    assert float(tokens) == float(count)
    np.testing.assert_allclose(float(loss), float(wanted), rtol=1e-5)
    chex.assert_trees_all_close(grads, expected, rtol=1e-3, atol=1e-4)


@hypothesis.given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 6))
def test_rows_hold_what_is_placed_in_them(lengths, rows):
    placed = first_fit_decreasing(lengths, rows, 50)
    if placed is None:
        assert sum(lengths) > 25 * rows  # first fit leaves no two rows half empty
        return
    for row in range(rows):
        assert sum(length for length, at in zip(lengths, placed, strict=True) if at == row) <= 50
    assert set(placed) <= set(range(rows))


def _asks(sample: Sample) -> bool:
    return sample.conversation[0]["value"] == prompts.INFERENCE_SYSTEM


def test_glimpses_and_segments_share_a_batch(tokenizer):
    samples = [ClipCaptionSource("train", 9)[0], SegmentSource("train", 9)[0]]
    batch = TASKS["compressor"].collate(samples, tokenizer, DEMO.compressor, SHAPE)
    assert batch.frames_PFHWC.shape[1] == 8
    assert (batch.frames_PFHWC[0, 2:] == batch.frames_PFHWC[0, 1]).all()
    assert batch.rows.visual_index_SL[0].max() == 15 and batch.rows.visual_index_SL[1].max() == 63


@pytest.mark.parametrize("task", TASKS)
def test_needs_are_what_collate_takes(task, tokenizer):
    clip = np.zeros((16, 64, 64, 3), np.uint8)
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}]
    sample = {
        "tempo": Sample(clip, 2.0, turns),
        "align": SegmentEvidenceSource("train", 9, segments=2)[1],
        "compressor": SegmentSource("train", 9)[1],
        "llm": told(2),
        "xcomp": Sample(clip, 2.0, turns),
    }[task]
    need = TASKS[task].sample_size(sample, tokenizer, PARTS[task])
    tight = BatchShape(need.segments, need.max_prompt_tokens, 1, need.tokens)
    TASKS[task].collate([sample], tokenizer, PARTS[task], tight)
    for field in ("segments", "compressor_length", "sequence_length"):
        if getattr(tight, field):
            less = dataclasses.replace(tight, **{field: getattr(tight, field) - 1})
            with pytest.raises(SampleTooLong):
                TASKS[task].collate([sample], tokenizer, PARTS[task], less)


def test_words_alone_need_no_segments(tokenizer):
    need = TASKS["tempo"].sample_size(told(0), tokenizer, DEMO)
    assert (need.segments, need.compressor_tokens, need.max_prompt_tokens) == (0, 0, 0)
    assert need.tokens == len(tokenizer.training_prompt(told(0).conversation)[0])
    assert told(0).frames is NO_FRAMES


def test_notes_say_of_every_segment_what_it_contributes():
    source = EvidenceTextSource("validation", 40, (64,), {"worded": 1.0})
    samples = [source[index].conversation for index in range(40)]
    assert samples == [source[index].conversation for index in range(40)]
    for asked, answered in samples:
        notes, question = asked["value"].split("\n", 1)
        assert notes.count(" seconds>") == 16
        words = answered["value"].removeprefix("It is ")
        assert re.search(rf"^\(.\) {words}$", question, re.MULTILINE)
        if "What colour does" in question:  # a needle: one segment knows
            assert notes.count(words) == 1


def test_notes_are_about_the_kinds_asked_for():
    source = EvidenceTextSource("validation", 30, (8, 64), kinds=("order",))
    samples = [source[index] for index in range(30)]
    assert None in samples  # 8 seconds have no order
    asked = [sample.conversation[0]["value"].split("\n")[1] for sample in samples if sample]
    assert asked and all("after the" in text or "before the" in text for text in asked)


@pytest.mark.parametrize("spare", [0, 9, None])
def test_notes_of_few_segments_keep_all_that_matter_at_their_times(spare):
    source = EvidenceTextSource("validation", 40, (8, 1024), {"text": 1.0}, ("when", "count"), spare)
    all_notes = dataclasses.replace(source, num_distractors=None)
    lengths = set()
    for index in range(40):
        if source[index] is None:
            continue
        asked, answered = (turn["value"] for turn in source[index].conversation)
        assert answered == all_notes[index].conversation[1]["value"]
        notes = re.findall(r"<.*?> \w+", asked)
        everything = re.findall(r"<.*?> \w+", all_notes[index].conversation[0]["value"])
        here = [note for note in everything if note.endswith("here")]
        assert [note for note in notes if note.endswith("here")] == here
        assert [note for note in everything if note in notes] == notes
        if answered.endswith("seconds"):
            assert f"<{answered}> here" in here
        lengths.add(len(notes) - len(here))
    assert max(lengths) == (127 if spare is None else spare)


def test_notes_are_said_again_as_memory_tokens_do():
    """The same words over and over, in more slots where a segment matters, all within the budget."""
    source = EvidenceTextSource("validation", 60, (16, 64, 512), {"worded": 1.0}, max_repeats=16, budget=160)
    once = dataclasses.replace(source, max_repeats=1)
    most = set()
    for index in range(60):
        if source[index] is None:
            continue
        said, notes = (_notes(each[index]) for each in (source, once))
        assert [time for time, _ in said] == [time for time, _ in notes]
        counts = {"idle": set(), "matters": set()}
        for (_, words), (_, note) in zip(said, notes):
            if len(words) > len(note):  # a note that is longer than its slots is said once
                counts["idle" if note == ["nothing"] else "matters"].add(len(words))
            assert words == np.resize(note, max(len(note), len(words))).tolist()
        assert all(len(lengths) <= 1 for lengths in counts.values())
        if counts["matters"]:
            assert max(counts["idle"], default=1) <= max(counts["matters"])
        whole = sum(len(note) for _, note in notes)
        assert sum(len(words) for _, words in said) <= max(160, whole)
        most |= counts["matters"]
    assert len(most) > 8 and max(most) <= 16


def test_notes_are_never_cut_short():
    """'here' without its shape would answer nothing, however few words there is room for."""
    source = EvidenceTextSource(
        "validation", 60, (64, 512), kinds=("order",), max_repeats=2, budget=1, num_distractors=0
    )
    for index in range(60):
        if sample := source[index]:
            assert all(len(words) == 2 for _, words in _notes(sample))


def test_several_questions_about_the_same_notes():
    """The notes of the first question answer all of them, and none is asked twice."""
    source = EvidenceTextSource(
        "validation", 60, (64, 512), {"text": 1.0}, ("order",), num_distractors=0, max_turns=4
    )
    several = 0
    for index in range(60):
        if (sample := source[index]) is None:
            continue
        values = [turn["value"] for turn in sample.conversation]
        first, *others = (value.split("\n")[-1] for value in values[::2])
        asked = [first, *others]
        assert len(set(asked)) == len(asked)
        several += len(asked) > 2
        notes = [(time, " ".join(words)) for time, words in _notes(sample)]
        (mark,) = (number for number, (_, note) in enumerate(notes) if note.startswith("here "))
        for question, answer in zip(asked, values[1::2]):
            if answer.endswith("seconds"):
                assert answer == notes[mark][0]
            else:
                assert answer == notes[mark + (1 if "after" in question else -1)][1]
    assert several > 10


def _notes(sample):
    text = sample.conversation[0]["value"].split("\n")[0]
    return [(time, words.split(" ")) for time, words in re.findall(r"<(.*?)> (.*?)(?=<|$)", text)]


def test_notes_mark_the_event_that_a_question_of_order_names():
    """What comes next or just before is then the note beside the only mark."""
    source = EvidenceTextSource("validation", 40, (64, 512), {"worded": 1.0}, kinds=("order",))
    asked = 0
    for index in range(40):
        if (sample := source[index]) is None:
            continue
        shown = [" ".join(words) for _, words in _notes(sample) if words != ["nothing"]]
        question = sample.conversation[0]["value"].split("\n")[1]
        (mark,) = (number for number, note in enumerate(shown) if note.startswith("here "))
        assert "card?" in question or question.endswith(f"{shown[mark].split()[1]}?")
        beside = shown[mark + (1 if "after" in question else -1)]
        assert sample.conversation[1]["value"] == f"It is {beside}"
        asked += 1
    assert asked > 20


def test_what_questions_call_an_event_is_no_other_of_its_kind():
    """By its colour alone, so that shapes and letters need not be compared with the question's."""
    for index in range(60):
        spec = minireel.make("train", index, seconds=512).spec
        for kind in ("visit", "card"):
            events = {event.name: event.colour for event in spec.events if event.kind == kind}
            assert len(set(events.values())) == len(events)


def test_notes_of_segments_are_for_memory_tokens_to_say(tokenizer):
    """The question reaches the compressor and not the LLM; each sample has something to note."""
    source = SegmentEvidenceSource("validation", 60, (64, 4096), segments=3)
    sorts = set()
    for sample in map(source.__getitem__, range(60)):
        asked, said = (turn["value"] for turn in sample.conversation)
        assert asked == f"<image>\n{EVIDENCE_PROMPT}" and sample.query == sample.compressor_query
        sorts |= {
            name
            for name, kind in questions.TYPES.items()
            if _phrased(sample.compressor_query, kind.phrasings)
        }
        notes = re.findall(r"<(.*?) seconds> (.*?)(?=<|$)", said)
        assert len(notes) == 3 and any(note != "nothing" for _, note in notes)
        assert len(sample.frames) == 24
        assert float(notes[0][0]) == sample.start_seconds + 4 / sample.real_fps
    assert sorts == {*questions.TYPES}
    need = TASKS["tempo"].sample_size(sample, tokenizer, DEMO)
    shape = BatchShape(need.segments, need.max_prompt_tokens, 1, need.tokens)
    batch = collate([sample], tokenizer, DEMO, shape)
    assert tokenizer.decode(batch.rows.token_ids_SL[0]).count(sample.compressor_query) == 1


def _phrased(asked, forms):
    patterns = (re.sub(r"\\{\w+\\}", ".+", re.escape(form)) for form in forms)
    return any(re.fullmatch(pattern, asked.split("\n")[0]) for pattern in patterns)


def test_a_question_meets_what_could_be_mistaken_for_its_answer():
    """One segment matters; most others show another visit or card, or the lead without the event."""
    rng = np.random.default_rng(3)
    alike, others = 0, 0
    for index in range(60):
        reel = minireel.make("validation", index, seconds=512)
        for question in reel.questions:
            chosen = sources.draw_contrasting_segments(reel, question, rng, 3)
            assert [s.index for s in chosen] == sorted({s.index for s in chosen}) and len(chosen) == 3
            idle = [s for s in chosen if not question.is_relevant(s)]
            if question.kind == "needle":
                assert len(idle) == 2
            assert len(idle) < 3
            shown = [s.event.kind for s in idle if s.event]
            if question.template in ("shape", "count"):
                confusable = sum(kind != "turn" for kind in shown)
                alike, others = alike + confusable, others + len(idle)
    assert 0.7 < alike / others < 0.95


def test_a_sample_may_ask_the_compressor_as_inference_does(tokenizer):
    fields = {"kind": "minireel", "seconds": 16, "size": 64, "count": 2}
    for as_asked, system, query in (
        (True, "answer exactly", "\nQuery:\nW"),
        (False, "Ignore irrelevant details.", "Context turn 1"),
    ):
        sample = open_source(ConfigDict(fields | {"inference_prompt": as_asked}))[0]
        need = TASKS["tempo"].sample_size(sample, tokenizer, DEMO)
        shape = BatchShape(need.segments, need.max_prompt_tokens, 1, need.tokens)
        drawn = dataclasses.replace(sample, frames=np.stack(list(sample.frames)))
        batch = collate([drawn], tokenizer, DEMO, shape)
        text = tokenizer.decode(batch.rows.token_ids_SL[0])
        assert system in text and query in text and ("answer exactly" in text) == as_asked


def test_several_questions_about_one_segment_cost_one_video():
    single, several = (SegmentSource("validation", 50, (64,), questions=n) for n in (1, 4))
    for index in range(50):
        one, many = single[index].conversation, several[index].conversation
        answers = [turn["value"] for turn in many if turn["from"] == "gpt"]
        assert len(one) == 5 and len(many) == 11 and one[0] == many[0]
        assert {turn["from"] for turn in many[1::2]} == {"human"}
        if many[0]["value"] == prompts.INFERENCE_SYSTEM:
            assert all(re.match("Yes, (?!nothing)|No, nothing$", answer) for answer in answers[:-1])
        else:
            assert not any(re.match("Yes|No", answer) for answer in answers)
