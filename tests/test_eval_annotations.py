"""Downloaded folders to questions: prompts as published, mistakes one sentence each, TFDS builders."""

import dataclasses
import json
import random

import pytest

from tempo_jax.data import minireel
from tempo_jax.data.minireel import __main__ as minireel_command
from tempo_jax.errors import TempoError
from tempo_jax.evaluation import annotations
from tempo_jax.evaluation.benchmarks import BENCHMARKS, MLVU
from tempo_jax.evaluation.protocols import benchmark
from tempo_jax.evaluation.questions import BUILDERS, questions
from tempo_jax.evaluation.videos import Videos
from tests import benchmark_copies as copies

LETTERED = "(A) a red bar\n(B) a square\n(C) nothing\n(D) the clock"
DOTTED = "A. a red bar\nB. a square\nC. nothing\nD. the clock"
PROMPTS = {
    "lvbench": f"What is seen in part 0?\n{LETTERED}\nAnswer the question with the option letter",
    "videomme": (
        "Select the best answer to the following multiple-choice question based on the video and the "
        "subtitles. Respond with only the letter (A, B, C, or D) of the correct option.\n"
        f"What is seen in part 0?\n{DOTTED}\n\n"
        "Answer with the option's letter from the given choices directly."
    ),
    "mlvu": f"What is seen in part 0?\n{LETTERED}\nOnly give the best option.\nBest option: (",
    "longvideobench": (
        f"What is seen in part 0?\n{DOTTED}\n"
        "Answer with the option's letter from the given choices directly.\n"
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A copy of each benchmark."""
    root = tmp_path_factory.mktemp("copies")
    for name, write in copies.WRITERS.items():
        write(root / name)
    return root


@pytest.mark.parametrize("name", copies.WRITERS)
def test_prompts_letters_and_groups_are_those_published(name, folders):
    found = annotations.read(BENCHMARKS[name], folders / name)
    assert found[0].prompt == PROMPTS[name]
    assert [question.answer for question in found] == list(copies.ANSWERS)
    assert len({question.id for question in found}) == len(found) == 7
    assert found[0].letters == "ABCD"
    assert all(question.groups.keys() == BENCHMARKS[name].groups.keys() for question in found)


def test_groups_and_letters_of_each(folders):
    found = {name: annotations.read(BENCHMARKS[name], folders / name) for name in copies.WRITERS}
    assert found["lvbench"][1].groups["task"] == ("entity recognition", "reasoning")
    assert found["videomme"][2].groups["duration"] == ("long",)
    assert found["longvideobench"][3].groups["duration"] == ("3600",)
    assert [q.letters for q in found["longvideobench"][:2]] == ["ABCD", "ABCDE"]
    assert found["longvideobench"][1].prompt.count("E. all of them") == 1
    assert {name for q in found["mlvu"] for name in q.groups["task"]} > {"plotQA", "ego"}


def test_minireel_is_asked_as_it_was_trained(tmp_path):
    assert minireel_command.main([str(tmp_path), "--count=1", "--seconds=16", "--size=32"]) == 0
    found = annotations.read(BENCHMARKS["minireel"], tmp_path)
    reel = minireel.make("test", 0, seconds=16, size=32)
    assert [q.prompt for q in found] == [q.prompt for q in reel.questions]
    assert [q.answer for q in found] == [q.answer_letter for q in reel.questions]
    assert [q.spans for q in found] == [q.relevant_seconds for q in reel.questions]
    assert found[0].groups["seconds"] == ("16",)
    assert Videos(BENCHMARKS["minireel"], tmp_path).find(found[0].video).is_file()


def test_other_published_forms_give_the_same_questions(tmp_path, folders):
    """LVBench's own file, a line per video, and LongVideoBench's JSON."""
    parquet = annotations.read(BENCHMARKS["lvbench"], folders / "lvbench")
    videos = {}
    for row in annotations._rows(folders / "lvbench" / "data" / "train-00000-of-00001.parquet"):
        video = videos.setdefault(row["key"], {"key": row["key"], "type": row["type"], "qa": []})
        video["qa"].append({k: row[k] for k in ("uid", "question", "answer", "question_type", "type")})
    lines = "\n".join(map(json.dumps, videos.values()))
    (tmp_path / "video_info.meta.jsonl").write_text(lines + "\n")
    found = {q.id: q for q in annotations.read(BENCHMARKS["lvbench"], tmp_path)}
    for question in parquet:
        assert found[question.id].also == () and question.also == (question.video.removesuffix(".mp4"),)
        assert found[question.id] == dataclasses.replace(question, video=question.also[0], also=())
    rows = annotations._rows(folders / "longvideobench" / "validation-00000-of-00001.parquet")
    for row in rows:
        row["candidates"] = [row.pop(f"option{i}") for i in range(5)]
    copies.write_rows(tmp_path / "lvb_val.json", rows)
    expected = annotations.read(BENCHMARKS["longvideobench"], folders / "longvideobench")
    found = annotations.read(BENCHMARKS["longvideobench"], tmp_path)
    assert [dataclasses.replace(q, also=()) for q in found] == [
        dataclasses.replace(q, also=()) for q in expected
    ]
    assert annotations.fingerprint(found) == annotations.fingerprint(expected)


def test_lvbench_with_a_column_of_options_asks_the_same(tmp_path, folders):
    rows = annotations._rows(folders / "lvbench" / "data" / "train-00000-of-00001.parquet")
    apart = [row | {"question": row["question"].split("\n")[0], "options": copies.OPTIONS} for row in rows]
    copies.write_rows(tmp_path / "train-0.parquet", apart)
    found = annotations.read(BENCHMARKS["lvbench"], tmp_path)
    expected = annotations.read(BENCHMARKS["lvbench"], folders / "lvbench")
    assert [q.prompt for q in found] == [q.prompt for q in expected]


def test_the_order_of_a_file_is_nothing_to_ids_and_fingerprint(tmp_path, folders):
    rows = annotations._rows(folders / "mlvu" / "mlvu" / "test-00000-of-00001.parquet")
    rows.append(rows[0])  # asked twice
    random.Random(1).shuffle(rows)
    copies.write_rows(tmp_path / "test-0.parquet", rows)
    first = annotations.read(MLVU, tmp_path)
    copies.write_rows(tmp_path / "test-0.parquet", rows[::-1])
    second = annotations.read(MLVU, tmp_path)
    assert {q.id: q for q in first} == {q.id: q for q in second} and len({q.id for q in first}) == 8
    assert annotations.fingerprint(first) == annotations.fingerprint(second)
    assert annotations.fingerprint(first) != annotations.fingerprint(first[1:])


def test_an_image_mark_in_a_prompt_is_taken_out():
    assert "<image>" not in MLVU.prompt("What <image>is it?", ())


def test_lone_surrogates_are_replaced_since_no_tokenizer_takes_them(tmp_path, folders):
    (file,) = (folders / "videomme").rglob("*.parquet")
    row = annotations._rows(file)[0] | {"question": "What\ud800?", "options": ["A. x\udfff", "B. y"]}
    copies.write_rows(tmp_path / "a.json", [row | {"answer": "A"}])
    (found,) = annotations.read(BENCHMARKS["videomme"], tmp_path, "a.json")
    assert "What\ufffd?\nA. x\ufffd\nB. y" in found.prompt


def without(column):
    return lambda row: {name: value for name, value in row.items() if name != column}


MISTAKES = [
    ("lvbench", without("answer"), "has no column answer (it has uid, key, "),
    ("lvbench", without("video_path"), None),  # the key is a name, too
    ("videomme", without("options"), "has no column options"),
    ("videomme", without("duration"), None),  # only a group
    ("mlvu", without("task_type"), "has no column task_type"),  # its score is a mean over them
    ("longvideobench", without("correct_choice"), "has no column correct_choice"),
    ("lvbench", {"answer": "F"}, "question 1: the answer 'F' is none of A, B, C, D"),
    ("videomme", {"answer": "AB"}, "the answer 'AB' is none of"),
    ("mlvu", {"answer": ""}, "the answer '' is none of"),
    ("mlvu", {"answer": None}, "the answer None is none of"),
    ("longvideobench", {"correct_choice": 5}, "the answer 5 is none of A, B, C, D"),
    ("longvideobench", {"correct_choice": -1}, "the answer -1 is none of"),
    ("lvbench", {"video_path": "../secret.mp4"}, "the video '../secret.mp4' is outside the folder of videos"),
    ("videomme", {"videoID": "/etc/passwd"}, "'/etc/passwd' is outside the folder"),
    ("mlvu", {"video_name": "a/../../b.mp4"}, "is outside the folder"),
    ("longvideobench", {"video_path": "..\\b.mp4"}, "is outside the folder"),
    ("mlvu", {"video_name": "a\0b"}, "is outside the folder"),
    ("lvbench", {"question": " "}, "question is ' ', but it must be text"),
    ("mlvu", {"question": 7}, "question is 7, but it must be text"),
    ("videomme", {"options": "A. x"}, "the options are 'A. x', but they must be a list of texts"),
    ("videomme", {"options": []}, "question 1 has 0 options, but it must have 1 to 4"),
    ("videomme", {"options": list("ABCDE")}, "question 1 has 5 options"),
    ("lvbench", {"uid": "same"}, "question 2: uid 'same' is there already"),
]  # fmt: skip


@pytest.mark.parametrize("name, change, sentence", MISTAKES)
def test_a_mistake_in_an_annotation_file_is_one_sentence(name, change, sentence, folders, tmp_path):
    (file,) = (folders / name).rglob("*.parquet")
    rows = [change(row) if callable(change) else row | change for row in annotations._rows(file)]
    copies.write_rows(tmp_path / "a.json", rows)
    if sentence is None:
        assert len(annotations.read(BENCHMARKS[name], tmp_path, "a.json")) == 7
        return
    with pytest.raises(TempoError) as caught:
        annotations.read(BENCHMARKS[name], tmp_path, "a.json")
    told = str(caught.value)
    assert sentence in told and str(tmp_path / "a.json") in told and "\n" not in told


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "holds no questions"),
        (b"[]", "holds no questions"),
        (b"[1]", "is no list of questions"),
        (b'{"a": ', "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
    ],
)
def test_a_file_that_is_no_annotation_file_is_one_sentence(content, sentence, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(TempoError, match=sentence):
        annotations.read(MLVU, tmp_path, "a.json")


def test_folders_and_files_that_are_not_there_are_named(tmp_path):
    (tmp_path / "test-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(TempoError, match="cannot be read"):
        annotations.read(MLVU, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TempoError, match=r"no annotation file of LVBench \(looked for data/train-"):
        annotations.read(BENCHMARKS["lvbench"], tmp_path / "empty")
    with pytest.raises(TempoError, match="There is no folder"):
        annotations.read(MLVU, tmp_path / "nowhere")
    with pytest.raises(TempoError, match="s3://bucket/x is in s3:// storage"):
        annotations.read(MLVU, "s3://bucket/x")
    with pytest.raises(TempoError, match="use one of lvbench, videomme"):
        benchmark("mvbench")
    with pytest.raises(TempoError, match="no folder of videos"):
        Videos(MLVU, tmp_path, "nowhere")
    for name in ("x.mp4", "x" * 300):
        with pytest.raises(TempoError, match=rf"There is no video {name} \(looked in "):
            Videos(MLVU, tmp_path).find(name)


@pytest.mark.parametrize("name", copies.WRITERS)
def test_videos_are_found_where_the_benchmarks_put_them(name, folders):
    videos = Videos(BENCHMARKS[name], folders / name)
    found = annotations.read(BENCHMARKS[name], folders / name)
    there = {
        question.video: videos.find(question.video).stem
        for question in found
        if "missing" not in question.video
    }
    assert set(there.values()) == {"one", "two", "cut", "empty"}


@pytest.mark.parametrize("name", [*copies.WRITERS])
def test_builders_keep_every_question(name, folders, tmp_path):
    builder = BUILDERS[name](source=folders / name, data_dir=str(tmp_path))
    builder.download_and_prepare()
    assert questions(builder) == annotations.read(BENCHMARKS[name], folders / name)
    assert builder.info.metadata["fingerprint"] == annotations.fingerprint(questions(builder))
