"""Where a benchmark's videos are found, and what becomes of those that are not there, or not yet."""

import json

import pytest

from tempo_jax.errors import TempoError
from tempo_jax.evaluation import annotations, model, rows
from tempo_jax.evaluation.benchmarks import LONGVIDEOBENCH, LVBENCH, MLVU, VIDEOMME
from tempo_jax.evaluation.protocols import benchmark
from tempo_jax.evaluation.videos import Videos
from tempo_jax.video.synthetic import SyntheticVideo, write_video
from tests import benchmark_copies as copies
from tests.eval_runs import FakeTempo, checkpoint, config_of, evaluate


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.mark.parametrize(
    "there, names",
    [
        ("videos/a.mp4", ("a.mp4",)),
        ("videos/a.MKV", ("a.mp4",)),
        ("videos/a.webm", ("a",)),
        ("videos/part 3/deeper/a.avi", ("a.mp4",)),
        ("elsewhere/a.m2ts", ("a",)),
        ("videos/sub/a.mp4", ("sub/a.mp4",)),
        ("other/sub/a.mov", ("sub/a.mp4",)),
        ("videos/007.mp4", ("-x_Yz.0", "007")),
        ("videos/-x_Yz.0.webm", ("-x_Yz.0", "007")),
        ("videos/a.gif", ("a.mp4",)),
        ("data/a.npy", ("a",)),
    ],
)
def test_a_video_is_found_by_any_name_ending_and_folder(there, names, tmp_path):
    touch(tmp_path, there, "videos/b.mp4", "videos/a.json", "videos/a.f137.mp4", ".cache/a.mp4")
    assert Videos(LVBENCH, tmp_path).find(*names) == tmp_path / there


def test_folders_of_frames_are_videos_and_their_frames_are_not(tmp_path):
    touch(
        tmp_path, *(f"images/a/{i:04d}.jpg" for i in range(40)), "images/b/a.jpg", "many/c.mp4", "many/t.jpg"
    )
    (tmp_path / "images" / "empty").mkdir()
    videos = Videos(LVBENCH, tmp_path)
    assert videos.find("a.mp4") == tmp_path / "images" / "a"
    assert videos.find("c") == tmp_path / "many" / "c.mp4"  # with its thumbnail beside it
    for name in ("0001", "empty", "t"):
        with pytest.raises(TempoError, match="There is no video"):
            videos.find(name)


def test_two_videos_of_one_name_are_told_apart_or_refused(tmp_path):
    touch(tmp_path, "x/1_plot/v.mp4", "x/2_needle/v.mp4", "x/1_plot/v.mkv")
    videos = Videos(LVBENCH, tmp_path)
    assert videos.find("2_needle/v.mp4") == tmp_path / "x" / "2_needle" / "v.mp4"
    assert videos.find("1_plot/v.mkv") == tmp_path / "x" / "1_plot" / "v.mkv"
    with pytest.raises(
        TempoError, match=r"The video v may be .* or .*: name its folder as config.data.videos"
    ):
        videos.find("v")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "", "../secret"])
def test_names_that_are_none(name, tmp_path):
    touch(tmp_path, "videos/b.mp4")
    with pytest.raises(TempoError, match="There is no video"):
        Videos(LVBENCH, tmp_path).find(name)


def test_a_question_knows_every_name_of_its_video(tmp_path):
    copies.videomme(tmp_path / "v")
    (tmp_path / "v" / "data" / "one.mkv").rename(tmp_path / "v" / "data" / "000.webm")
    question = annotations.read(VIDEOMME, tmp_path / "v")[0]
    assert (question.video, question.also) == ("one", ("000",))
    assert Videos(VIDEOMME, tmp_path / "v").find(question.video, *question.also).name == "000.webm"
    copies.longvideobench(tmp_path / "l")
    assert annotations.read(LONGVIDEOBENCH, tmp_path / "l")[0].also == ("one",)


def authors_mlvu(root):
    """MLVU as its authors publish it: a file and a folder of videos for each task; 9 has no options."""
    tasks = {"1_plotQA": "plotQA", "2_needle": "findNeedle", "4_count": "count"}
    for name, task in tasks.items():
        candidates = ["3", "7", "1", "A"] if task == "count" else copies.OPTIONS
        rows_ = [
            {"video": "v_1.mp4", "duration": 4.0, "question": f"What, {task}?", "candidates": candidates,
             "answer": candidates[2], "question_type": task}
        ]  # fmt: skip
        copies.write_rows(root / "json" / f"{name}.json", rows_)
        (root / "video" / name).mkdir(parents=True)
        write_video(
            root / "video" / name / "v_1.mp4", SyntheticVideo(seconds=4, fps=4, height=48, width=64), gop=4
        )
    summary = [{"video": "s.mp4", "question": "Sum it up.", "answer": "It ends.", "question_type": "summary"}]
    copies.write_rows(root / "json" / "9_summary.json", summary)
    return root


@pytest.mark.parametrize("inner", ["", "MLVU", "down/load"])
@pytest.mark.parametrize("system", ["tempo", "xcomp"])
def test_mlvu_as_its_authors_publish_it(inner, system, tmp_path):
    authors_mlvu(tmp_path / inner)
    given = tmp_path / "down" if inner == "down/load" else tmp_path
    row = benchmark("mlvu", system)
    found = annotations.read(row, given)
    assert [q.answer for q in found] == ["C", "C", "C"] and [q.letters for q in found] == ["ABCD"] * 3
    assert [q.groups["task"] for q in found] == [("plotQA",), ("findNeedle",), ("count",)]
    lettered = "\n".join(f"({x}) {o}" for x, o in zip("ABCD", copies.OPTIONS))
    if system == "tempo":  # the very prompt of the copy that published numbers were made with
        assert found[0].prompt == f"What, plotQA?\n{lettered}\nOnly give the best option.\nBest option: ("
    else:
        assert found[0].prompt.startswith(f"Question: What, plotQA?\nOption:\n{lettered}\n")
    folders = ("1_plotQA", "2_needle", "4_count")
    paths = [Videos(row, given).find(q.video, *q.also) for q in found]
    assert [path.parent.name for path in paths] == list(folders)  # of three videos with one name each its own


def test_an_answer_in_words_must_be_one_option(tmp_path):
    row = {
        "video": "v",
        "question": "?",
        "candidates": ["x", "y", "x"],
        "answer": "x",
        "question_type": "ego",
    }
    for answer in ("x", "z"):
        copies.write_rows(tmp_path / "json" / "3_ego.json", [row | {"answer": answer}])
        with pytest.raises(TempoError, match=f"the answer '{answer}' is none of A, B, C"):
            annotations.read(MLVU, tmp_path)


@pytest.fixture
def place(tmp_path, demo_tokenizer_dir, monkeypatch):
    """A copy of LVBench and a stand-in for the model: what is tested is which questions are asked."""
    copies.lvbench(tmp_path / "lvbench")
    checkpoint(tmp_path / "model", demo_tokenizer_dir)
    monkeypatch.setattr(model, "load", lambda config: FakeTempo())

    def run(**changes):
        lines = evaluate(
            config_of("lvbench", tmp_path / "lvbench", tmp_path / "model", **changes), tmp_path / "w"
        )
        results = json.loads((tmp_path / "w" / "report.json").read_text())["results"]
        return lines, results["unanswered"], results["answers"]

    return tmp_path, run


def test_a_run_stops_before_it_starts_where_videos_are_missing(place):
    root, run = place
    with pytest.raises(
        TempoError, match=r"1 of 5 videos are missing in .* \(missing.mp4\): download or unpack"
    ):
        run(allow_missing=False)
    assert not (root / "w" / "rows").exists()


def test_missing_videos_are_asked_about_when_they_come(place):
    root, run = place
    assert run()[1:] == ({"missing": 1, "undecodable": 2, "refused": 0}, 4)
    before = (root / "w" / "rows" / "0.jsonl").read_bytes()
    assert run()[1]["missing"] == 1
    assert (root / "w" / "rows" / "0.jsonl").read_bytes() == before  # nothing is asked, or said, twice
    late = root / "lvbench" / "all_videos" / "chunk" / "missing.webm"
    late.parent.mkdir(parents=True)
    late.write_bytes((root / "lvbench" / "videos" / "one.mp4").read_bytes())
    assert run(allow_missing=False)[1:] == ({"missing": 0, "undecodable": 2, "refused": 0}, 5)
    for row in rows.read(root / "w").values():
        assert row["unanswered"] != "missing"


def test_a_broken_video_that_is_replaced_is_asked_about_again(place):
    root, run = place
    run()
    for name in ("cut.mp4", "empty.mp4"):
        whole = (root / "lvbench" / "videos" / "one.mp4").read_bytes()
        (root / "lvbench" / "videos" / name).write_bytes(whole)
    assert run()[1:] == ({"missing": 1, "undecodable": 0, "refused": 0}, 6)


def test_rows_of_before_go_on(place):
    """They do not say why there is no answer."""
    root, run = place
    run()
    file = root / "w" / "rows" / "0.jsonl"
    old = [json.loads(line) for line in file.read_text().splitlines()]
    for row in old:
        row.pop("unanswered"), row.pop("file", None)
    file.write_text("".join(json.dumps(row) + "\n" for row in old))
    assert run()[1:] == ({"missing": 1, "undecodable": 2, "refused": 0}, 4)
