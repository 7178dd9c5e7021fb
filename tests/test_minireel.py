"""minireel: answers checked against pixels, splits, chance level, ground truth, files, command line."""

import dataclasses
import hashlib
import itertools
import json
import re
from collections import Counter, defaultdict
from unittest import mock

import av
import numpy as np
import pytest

from tempo_jax.data import minireel
from tempo_jax.data.minireel import __main__ as command
from tempo_jax.data.minireel import draw, generate, questions, text_sources, world
from tempo_jax.errors import TempoError
from tempo_jax.video.sampling import sample_indices
from tests.minireel_pixels import answer, bare, watch

# Answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds,count", [(8, 12), (16, 12), (64, 30), (512, 3)])
def test_answers_are_what_the_pixels_show(seconds, count):
    kinds = set()
    for index in range(count):
        reel = minireel.make("validation", index, seconds=seconds, size=64)
        watched = watch(reel)
        for question in reel.questions:
            right = question.options[questions.LETTERS.index(question.answer_letter)]
            assert answer(question, reel.spec.fps, watched) == right, (index, question)
            assert len(set(question.options)) == 4
            assert question.accepts(question.answer_text)
            if question.kind != "when":
                assert question.answer_text == right
                assert question.accepts(f" The {right.upper()}.")
                assert not any(question.accepts(wrong) for wrong in question.options if wrong != right)
            kinds.add(question.kind)
    assert kinds == set(questions.KINDS) if seconds >= 64 else kinds >= {"needle", "global"}


def test_a_free_time_may_be_a_segment_off():
    questions = minireel.make("test", 0, seconds=512).questions
    (when,) = [question for question in questions if question.kind == "when"]
    ((start, end),) = when.relevant_seconds
    assert when.tolerance == 4.0
    assert when.accepts(f"around {start - 3.9:.1f} s") and when.accepts(f"{end + 3.9:.1f} seconds")
    assert not when.accepts(f"{start - 4.2:.1f} seconds") and not when.accepts("at the end")


def test_the_main_place_and_the_lead_are_well_ahead():
    for index in range(150):
        spec = minireel.make("train", index).spec
        place, actor = Counter(), Counter()
        for scene in spec.scenes:
            place[scene.place] += scene.end - scene.start
            for who in scene.actors:
                actor[who.name] += scene.end - scene.start
        assert spec.scenes[0].start == 0 and spec.scenes[-1].end == spec.seconds
        assert place.pop(spec.place) >= 1.49 * max(place.values(), default=0)
        assert actor.pop(spec.lead.name) >= 1.6 * max(actor.values(), default=0)


# Splits, determinism, chance -------------------------------------------------------------------------


def test_same_arguments_same_reel():
    """Fixed sums: a benchmark that changes silently is none. Change them only with the world on purpose."""
    reel = minireel.make("test", 3, seconds=120, size=64)
    again = minireel.make("test", 3, seconds=120, size=64)
    assert reel == again
    assert np.array_equal(reel.frames([5, 100]), np.stack([draw.render(again.spec, i) for i in (5, 100)]))
    names = {"template": "asked"}  # as files have it
    records = [dataclasses.asdict(question) for question in reel.questions]
    asked = json.dumps([{names.get(key, key): value for key, value in x.items()} for x in records])
    assert hashlib.sha256(asked.encode()).hexdigest()[:16] == "c3594da951356aec"
    assert hashlib.sha256(reel.frames(range(0, 240, 10)).tobytes()).hexdigest()[:16] == "7a2bf5be50ea9044"


def test_splits_share_no_world():
    worlds, shares = {}, {}
    for split in minireel.SPLITS:
        specs = [generate.spec(split, index, seconds=16) for index in range(300)]
        worlds[split] = {(spec.place, spec.lead.colour, spec.lead.shape) for spec in specs}
        assert len({(spec.scenes, spec.events) for spec in specs}) == 300
        shares[split] = [
            Counter(values).most_common()[-1][1]
            for values in zip(*((spec.place, spec.lead.colour, spec.lead.shape) for spec in specs))
        ]
    for first, second in itertools.combinations(worlds.values(), 2):
        assert not first & second
    assert min(map(min, shares.values())) > 25  # every place, colour and shape occurs in every split


def _asked(split, count, seconds):
    for index in range(count):
        yield from minireel.make(split, index, seconds=seconds).questions


def test_letters_are_uniform_and_the_question_alone_gives_chance():
    """A guesser that knows how often each option is right, and each letter, for each sort of question."""
    seen, right = defaultdict(Counter), defaultdict(Counter)
    letters = Counter()
    for question in _asked("train", 700, 128):
        option_right = question.options[questions.LETTERS.index(question.answer_letter)]
        letters[question.answer_letter] += 1
        for letter, option in zip(questions.LETTERS, question.options):
            for clue in (option, letter):
                seen[question.template][clue] += 1
                right[question.template][clue] += clue in (option_right, question.answer_letter)
    total = sum(letters.values())
    assert sum((letters[letter] - total / 4) ** 2 / (total / 4) for letter in "ABCD") < 11.3  # p = 0.01

    def belief(question, letter, option):
        return np.prod(
            [
                (right[question.template][clue] + 5) / (seen[question.template][clue] + 20)
                for clue in (letter, option)
            ]
        )

    hits = defaultdict(list)
    for question in _asked("test", 400, 128):
        guess = max(
            zip(questions.LETTERS, question.options),
            key=lambda pair, question=question: belief(question, *pair),
        )
        hits[question.kind].append(guess[0] == question.answer_letter)
    assert set(hits) == set(questions.KINDS)
    for kind, values in hits.items():
        allowed = 3.3 * np.sqrt(0.25 * 0.75 / len(values))  # p = 0.001
        assert abs(np.mean(values) - 0.25) < allowed, (kind, np.mean(values), len(values))


# Relevance -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds,fps", [(512, 2.0), (4101, 2.0), (4101, 5.0), (64, 4.0), (100.7, 2.5)])
def test_each_event_is_seen_in_one_segment_of_the_standard_sampling(seconds, fps):
    for index in range(4):
        spec = generate.spec("train", index, seconds=seconds, fps=fps, size=32)
        times = minireel.segment_times(sample_indices(spec.num_frames, fps), fps)
        for event in spec.events:
            frames = [int(((event.start <= t) & (t < event.end)).sum()) for t in times]
            assert sum(count > 0 for count in frames) == 1 and max(frames) >= 2
        segments = [int(event.start / spec.segment_seconds) for event in spec.events]
        assert len(set(segments)) == len(segments)


def test_relevance_is_the_share_of_frames_that_show_the_event():
    for index in range(4):
        reel = minireel.make("test", index, seconds=64, size=64)
        sampled = sample_indices(reel.spec.num_frames, reel.spec.fps)
        changed = [(reel.frames([i])[0] != draw.render(bare(reel.spec), int(i))).any() for i in sampled]
        per_segment = np.reshape(changed, (-1, 8)).mean(1)
        all_events = np.zeros(len(per_segment))
        for question in reel.questions:
            values = minireel.relevance(question, minireel.segment_times(sampled, reel.spec.fps))
            assert values.shape == (16,) and values.dtype == np.float32
            if question.kind == "global":
                assert (values == 1).all()
                continue
            assert 0 < (values > 0).sum() == len(question.relevant_seconds)
            assert np.array_equal(values[values > 0], per_segment[values > 0].astype(np.float32))
            all_events = np.maximum(all_events, values)
        assert (all_events <= per_segment).all()


def test_relevance_of_ragged_and_empty_segments():
    question = dataclasses.replace(
        minireel.make("test", 0, seconds=64).questions[0], relevant_seconds=((1.0, 2.0), (5.0, 6.0))
    )
    values = minireel.relevance(question, [[0.0, 0.5, 1.0, 1.5], [2.0, 5.5], [6.0], []])
    assert values.tolist() == [0.5, 0.5, 0.0, 0.0]


# Types of questions ----------------------------------------------------------------------------------

_COLOUR, _SHAPE, _PLACE = ("|".join(names) for names in (world.COLOURS, world.VISITORS, world.PLACES))
_SIGN = f"({_SHAPE}|[A-Z])"  # of an event that is known by its colour
_ACTOR = f"({_COLOUR}) ({'|'.join(world.ACTORS)})"
# Type -> what its segments show for the answer.
EVIDENCE = {
    "letter": "[A-Z]",
    "shape": _SHAPE,
    "turn": _COLOUR,
    "place": f"({_PLACE}) {_SIGN}",
    "when": f"here {_SIGN}",
    "when_turn": "here",
    "after": f"here {_SIGN}|({_COLOUR}) ({_SHAPE})|letter [A-Z]",
    "before": f"here {_SIGN}|({_COLOUR}) ({_SHAPE})|letter [A-Z]",
    "count": f"here ({_SHAPE})",
    "most_place": _PLACE,
    "most_shape": f"{_ACTOR}( and {_ACTOR})*|",  # a scene may be empty
}


def test_each_type_has_questions_and_evidence_where_it_is_relevant():
    found = Counter()
    for index in range(12):
        spec = generate.spec("validation", index, seconds=256)
        segments = [world.Segment(spec, number) for number in range(64)]
        video = questions.Video(spec, np.random.default_rng(index))
        for draft in (draft for kind in questions.KINDS for draft in video.drafts(kind)):
            question = draft.finish(video.rng)
            found[question.template] += 1
            assert question.kind == question.type.kind and question.answer_text in question.options
            for segment in segments:
                relevant, evidence = question.is_relevant(segment), question.evidence(segment)
                assert question.has_evidence(segment) == relevant, (question, segment.index)
                pattern = EVIDENCE[question.template] if relevant else questions.NOTHING
                assert re.fullmatch(pattern, evidence), (question.template, evidence)
    assert min(found[name] for name in questions.TYPES) >= 5, found


def test_only_what_is_alike_is_a_distractor():
    """Of a visit, a card and a turn, each in a segment of its own."""
    spec = generate.spec("train", 0, seconds=64)
    kinds = (("visit", "red", "star"), ("card", "blue", "A"), ("turn", "cyan", spec.lead.shape))
    spec = dataclasses.replace(
        spec,
        events=tuple(
            world.Event(kind, 4.0 * i + 1, 4.0 * i + 3, *what) for i, (kind, *what) in enumerate(kinds)
        ),
    )
    visit, card, turn = (world.Segment(spec, number) for number in range(3))

    def distractors(template, named):
        question = minireel.Question("", template, "", (), "", "", (), named)
        return [question.is_distractor(segment) for segment in (visit, card, turn)]

    assert distractors("shape", "green star") == [True, False, False]
    assert distractors("shape", "blue star") == [True, True, False]  # a card in the colour that is named
    assert distractors("letter", "green card") == [False, True, False]
    assert distractors("place", "red card") == [True, True, False]
    assert distractors("after", "red star") == [False, False, True]
    led = [spec.lead.name in segment.actors for segment in (visit, card, turn)]
    assert distractors("turn", "cyan") == distractors("when_turn", "cyan") == led


@pytest.mark.parametrize("drawn, lengths", [((9, 3), (3, 8)), ((9, 9), (4, 4)), ((1, 2), (1, 2))])
def test_evidence_is_repeated_within_the_budget(drawn, lengths):
    """Of four segments without evidence and one with evidence, in 20 words."""
    rng = mock.Mock(integers=lambda *_: np.array(drawn))
    source = text_sources.EvidenceTextSource(max_repeats=9, budget=20)
    assert source._draw_lengths(4, 1, rng) == lengths


# Files, records, text --------------------------------------------------------------------------------


def test_the_recording_shows_the_drawn_frames(tmp_path):
    reel = minireel.make("train", 2, seconds=32, size=96)
    for fps in (None, 5.0):
        path = tmp_path / "reel.mp4"
        reel.write(path, fps)
        spec = reel.spec if fps is None else dataclasses.replace(reel.spec, fps=fps)
        with av.open(str(path)) as video:
            assert video.streams.video[0].average_rate == spec.fps
            decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
        drawn = np.stack([draw.render(spec, index) for index in range(spec.num_frames)])
        gap = np.abs(decoded.astype(int) - drawn)
        assert decoded.shape == drawn.shape
        assert gap.mean() < 5 and gap.mean((1, 2, 3)).max() < 10
        assert path.stat().st_size < 40_000


def test_frames_outside_the_video_are_refused(tmp_path):
    reel = minireel.make("test", 0, seconds=16)
    assert reel.frames([]).shape == (0, 96, 96, 3)
    for wrong in (-1, 32):
        with pytest.raises(TempoError, match="frames 0 to 31"):
            reel.frames([wrong])
    with pytest.raises(TempoError, match="0 frames per second"):
        reel.write(tmp_path / "reel.mp4", fps=0)


@pytest.mark.parametrize(
    "split,index,options,says",
    [
        ("dev", 0, {}, "choose one of train, validation, test"),
        ("test", -1, {}, "below 0"),
        ("test", 0, {"seconds": 7}, "between 8 and 21600"),
        ("test", 0, {"seconds": float("nan")}, "between 8 and 21600"),
        ("test", 0, {"size": 65}, "even number"),
        ("test", 0, {"fps": 0}, "above 0"),
        ("test", 0, {"max_frames": 8}, "at least 16 frames"),
    ],
)
def test_mistakes_are_sentences(split, index, options, says):
    with pytest.raises(TempoError, match=says):
        minireel.make(split, index, **options)


def test_records_are_llava_style():
    records = list(minireel.records("train", 3, forms=("choice", "text"), seconds=64))
    reels = [minireel.make("train", index, seconds=64) for index in range(3)]
    questions = [question for reel in reels for question in reel.questions]
    assert len(records) == 2 * len(questions) and len({record["id"] for record in records}) == len(records)
    for (choice, text), question in zip(zip(records[::2], records[1::2]), questions):
        assert choice["video"].startswith("videos/train-00000") and choice["video"].endswith("-64s.mp4")
        assert [turn["from"] for turn in choice["conversations"]] == ["human", "gpt"]
        assert choice["conversations"][0]["value"] == f"<video>\n{question.prompt}"
        assert choice["conversations"][1]["value"] == question.answer_letter
        assert [turn["value"] for turn in text["conversations"]] == [
            f"<video>\n{question.text}",
            question.answer_text,
        ]
    needles = list(minireel.records("train", 3, kinds=("needle",), seconds=64))
    assert len(needles) == sum(question.kind == "needle" for question in questions)
    with pytest.raises(TempoError, match="no kind 'colour'"):
        next(minireel.records("train", 1, kinds=("colour",)))


def test_times_to_choose_from_are_centres_of_segments():
    """As the model's time tags say them; only the right one's segment shows what is asked about."""
    asked = [question for question in _asked("train", 40, 128) if question.kind == "when"]
    assert len(asked) > 20
    for question in asked:
        moments = [float(option.removesuffix(" seconds")) for option in question.options]
        assert all(moment % 4 == 2 for moment in moments) and len({*moments}) == 4
        ((start, end),) = question.relevant_seconds
        inside = [option for option, t in zip(question.options, moments) if t - 2 <= start and end <= t + 2]
        assert inside == [question.answer_text] == [question.options["ABCD".index(question.answer_letter)]]
        assert question.named and question.named in question.text


def test_the_corpus_holds_every_text():
    corpus = set(minireel.corpus())
    words = set(minireel.vocabulary())
    for question in itertools.chain(_asked("train", 60, None), _asked("test", 10, 4101)):
        assert question.text in corpus
        if question.kind != "when":
            assert set(question.options) <= corpus and question.answer_text in corpus
        assert set(re.findall(r"[A-Za-z]+|\S", f"{question.prompt} {question.answer_text}")) <= words
    assert len(words) < 200


def test_names_mean_the_same_everywhere():
    assert set(draw.PLACES) == set(world.PLACES)
    assert set(draw.SHAPES) == {*world.ACTORS, *world.VISITORS, "card"}
    assert sorted(residue for residues in world.SPLITS.values() for residue in residues) == list(
        range(len(world.PLACES))
    )


def test_command_line(tmp_path, capsys):
    out = tmp_path / "bench"
    assert command.main([str(out), "--count", "2", "--seconds", "16", "--size", "64"]) == 0
    rows = [json.loads(line) for line in (out / "test.jsonl").read_text().splitlines()]
    assert f"{len(rows)} questions on 2 videos" in capsys.readouterr().out
    assert {row["video"] for row in rows} == {f"videos/test-00000{i}-16s.mp4" for i in (0, 1)}
    assert all((out / row["video"]).is_file() for row in rows)
    expected = [
        question for index in (0, 1) for question in minireel.make("test", index, seconds=16).questions
    ]
    for row, question in zip(rows, expected, strict=True):
        assert (row["kind"], row["answer_letter"]) == (question.kind, question.answer_letter)
        assert row["conversations"][1]["value"] == row["answer_letter"]
        assert tuple(map(tuple, row["relevant_seconds"])) == question.relevant_seconds
    before = (out / "test.jsonl").read_bytes()
    assert command.main([str(out), "--count", "2", "--seconds", "16", "--size", "64", "--overwrite"]) == 0
    assert (out / "test.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "arguments,says",
    [
        (["--seconds", "3"], "between 8 and 21600"),
        (["--count", "0"], "whole number of at least 1"),
        (["--split", "dev"], "invalid choice"),
        (["--size", "33"], "even number"),
    ],
)
def test_command_line_mistakes(tmp_path, capsys, arguments, says):
    assert command.main([str(tmp_path / "new"), *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "new").exists()


def test_command_line_will_not_overwrite_or_write_into_a_file(tmp_path, capsys):
    (tmp_path / "test.jsonl").write_text("mine")
    assert command.main([str(tmp_path), "--seconds", "8"]) == 2
    assert "--overwrite" in capsys.readouterr().err and (tmp_path / "test.jsonl").read_text() == "mine"
    assert command.main([str(tmp_path / "test.jsonl"), "--seconds", "8"]) == 2
    assert capsys.readouterr().err.startswith("minireel: Not a directory (")


@pytest.mark.parametrize(
    "reply, right",
    [
        *(
            ("{0}", True),
            ("({0})", True),
            (" {0}. pink star", True),
            ("It is {2} ({1})", False),
            ("{3} ({0})", True),
        ),
        *(("{1}", False), ("It is {2}", True), ("{2}.", True), ("it is {3}", False), ("{2} or {3}", False)),
        *(("", False), ("neither", False), ("A cat", False), ("Both {0}", False), ("It is {2}ish", False)),
        *(("A {2}", True), ("{0} it is", True)),
    ],
)
def test_the_option_that_a_reply_picks(reply, right):
    """{0} and {1}: letters of the right and of a wrong option, {2} and {3} their words."""
    question = next(
        q
        for i in range(40)
        for q in minireel.make("test", i).questions
        if q.template == "place" and q.answer_letter == "C"
    )
    words = question.options[2], question.options[0]
    assert question.chosen(reply.format("C", "A", *words)) == right
    assert question.chosen(question.worded_answer)


def test_every_worded_answer_picks_the_right_option_only():
    """Also where one option's words are part of another's sentence."""
    for index in range(30):
        for question in minireel.make("validation", index, seconds=64).questions:
            picked = [questions.option_of(f"It is {option}", question.options) for option in question.options]
            assert picked == list("ABCD")[: len(question.options)], question


def test_times_of_standard_segments_are_one_token(tokenizer):
    """As time tag and as option; other numbers stay digits, and all of them can be read back."""
    for seconds in (512, 4096):
        for index in range(128):
            moment = questions.moment((index + 0.5) * seconds / 128)
            whole, rest = moment.split(".")
            pieces = [tokenizer.decode([i]) for i in tokenizer.encode(f"<{moment}>")]
            assert pieces == ["<", whole, f".{rest}>"]
    for number in ("437", "1604", "12345", "20261122"):
        assert [tokenizer.decode([i]) for i in tokenizer.encode(number)] == list(number)
