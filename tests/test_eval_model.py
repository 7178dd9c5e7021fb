"""Evaluations of a real, tiny model: what a run asks is what `ask` answers, on one process or two."""

import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

import tempo_jax
from configs import eval_minireel
from tempo_jax.data import minireel
from tempo_jax.data.minireel.reel import benchmark_rows as minireel_rows
from tempo_jax.errors import TempoError
from tempo_jax.evaluation import annotations, model, report, rows
from tempo_jax.evaluation.benchmarks import LVBENCH
from tempo_jax.tempo import steps
from tempo_jax.tempo.options import Options
from tempo_jax.video import open_video
from tests import benchmark_copies as copies
from tests.eval_runs import REPO, config_of, evaluate
from tests.systems import recorded_frames

pytestmark = pytest.mark.usefixtures("quick_compilation")
GRID = {"strategy": ("head", "prune-topk", "none"), "budget": (6,), "dtype": "float32"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lvbench")
    copies.lvbench(folder)
    return folder


@pytest.fixture(scope="module")
def whole(copy, tiny_model, tmp_path_factory):
    """A run of one process."""
    workdir = tmp_path_factory.mktemp("whole")
    evaluate(config_of("lvbench", copy, tiny_model, **GRID), workdir)
    return workdir


def reported(workdir):
    text = (workdir / "report.md").read_text("utf-8")
    return json.loads((workdir / "report.json").read_text("utf-8"))["results"], text.split(
        report.SECONDS_HEADING
    )[0]


def test_rows_are_the_answers_of_ask(whole, copy, tiny_model):
    tempo = tempo_jax.load(tiny_model, dtype="float32", context_length=32_768)
    question = next(q for q in annotations.read(LVBENCH, copy) if q.video == "two.mp4")
    found = {row["setting"]: row for row in rows.read(whole).values() if row["question"] == question.id}
    path = copy / "videos" / "two.mp4"
    answer = tempo.ask(path, question.prompt, 6, min_frames=8, max_new_tokens=16)
    row = found["1024 frames, head, budget 6"]
    assert row["text"] == answer.text and row["new_tokens"] == answer.usage["new_tokens"]
    assert row["allocation"]["most"] == max(s.tokens for s in answer.segments)
    plain = tempo.ask(path, question.prompt, min_frames=8, compress=False, max_new_tokens=16)
    assert found["1024 frames, none"]["text"] == plain.text
    assert found["1024 frames, none"]["visual_tokens"] == plain.usage["visual_tokens"] == 8
    assert found["1024 frames, prune-topk"]["visual_tokens"] == 4  # one of two segments, whole


def test_rows_that_were_lost_come_back_the_same(whole, copy, tiny_model, tmp_path):
    """Whatever of a batch is there already."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "rows" / "0.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[::2]) + lines[1][:40])
    (tmp_path / "report.json").unlink()
    evaluate(config_of("lvbench", copy, tiny_model, **GRID), tmp_path)
    assert reported(tmp_path) == reported(whole)


def test_each_video_is_decoded_and_seen_once(copy, tiny_model, tmp_path, monkeypatch):
    seen, read = [], []
    see, chunks = steps.encode_frames, tempo_jax.video.Source.chunks

    def counted(compressor, frames):
        seen.append(frames.shape)
        return see(compressor, frames)

    def opened(source, size):
        read.append(source.name)
        return chunks(source, size)

    monkeypatch.setattr(steps, "encode_frames", counted)
    monkeypatch.setattr(tempo_jax.video.Source, "chunks", opened)
    evaluate(config_of("lvbench", copy, tiny_model, reuse="prefix", **GRID), tmp_path)
    assert sorted(read) == ["one.mp4", "two.mp4"] and len(seen) == 2  # 12 answers, a chunk a video


def test_kept_prefixes_give_the_same_report(whole, copy, tiny_model, tmp_path):
    evaluate(config_of("lvbench", copy, tiny_model, reuse="prefix", workers=1, **GRID), tmp_path)
    assert reported(tmp_path) == reported(whole)


def on_two_processes(copy, tiny_model, workdir, of_1=(), ranks=(0, 1)):
    """Exit status and what was said, (stdout, stderr), of two processes of two devices each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [
        sys.executable, "eval.py", "--config=configs/eval_lvbench.py", f"--workdir={workdir}",
        f"--config.checkpoint={tiny_model}", f"--config.data.path={copy}", "--config.budget=6",
        "--config.strategy=head,prune-topk,none", "--config.dtype=float32", "--config.decode_workers=1",
        "--config.allow_missing=True", "--wait_seconds=20",
        "--distributed", f"--coordinator={address}", "--processes=2",
    ]  # fmt: skip
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    children = [
        subprocess.Popen(
            [*command, f"--process={rank}", *(of_1 if rank else ())], cwd=REPO, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in ranks
    ]  # fmt: skip
    try:
        told = [child.communicate(timeout=300) for child in children]
    finally:
        for child in children:
            child.kill()
    return [(child.returncode, *texts) for child, texts in zip(children, told, strict=True)]


def test_two_processes_of_a_slice_give_the_report_of_one(whole, copy, tiny_model, tmp_path):
    """Two devices each, over which the segments of a video spread."""
    results = on_two_processes(copy, tiny_model, tmp_path)
    for status, _, err in results:
        assert status == 3, err[-3000:]  # three of its videos are not there or broken
    assert len(list((tmp_path / "rows").iterdir())) == 2
    assert reported(tmp_path) == reported(whole)
    assert "The report: " in results[0][1]


@pytest.mark.parametrize(
    "changes, status, sentence",
    [
        ({"of_1": ["--config.data.path=nowhere"]}, 2, "eval: process 1: "),
        ({"ranks": (0,)}, 75, "eval: the other processes did not all come: "),
    ],
)
def test_what_is_wrong_with_one_process_ends_all(copy, tiny_model, tmp_path, changes, status, sentence):
    results = on_two_processes(copy, tiny_model, tmp_path, **changes)
    assert {found for found, *_ in results} == {status}, results
    assert sentence in results[0][2]
    assert not any(word in err for _, _, err in results for word in ("Traceback", "bug", "absl::"))


def test_minireel_is_scored_as_by_hand(tiny_model, tmp_path):
    """As benchmarks/minireel_accuracy.py asks and scores it."""
    reel = minireel.make("test", 0, seconds=8, size=32)
    (tmp_path / "videos").mkdir()
    path = tmp_path / "videos" / f"{reel.name}.mp4"
    reel.write(path)
    lines = (json.dumps(row) + "\n" for row in minireel_rows(reel))
    (tmp_path / "test.jsonl").write_text("".join(lines), encoding="utf-8")
    config = eval_minireel.get_config()
    config.data.path, config.checkpoint = str(tmp_path), str(tiny_model)
    config.mesh.fsdp, config.decode_workers = 1, 0
    evaluate(config, tmp_path / "work")
    found = [row for _, row in sorted(rows.read(tmp_path / "work").items())]
    clip = tempo_jax.load(config.checkpoint).open(path, prefix_cache=True)
    for question, row in zip(reel.questions, found, strict=True):
        text = clip.ask(question.prompt, max_new_tokens=16, budget=1024).text
        assert (row["text"], row["right"]) == (text, question.chosen(text))
        assert row["auc"] in (0.5, None)  # of random weights every segment is as relevant


def test_limits_and_pruning_of_the_engine(tiny_model):
    """Of random weights every segment is as relevant; see the next test for those that are not."""
    tempo = tempo_jax.load(tiny_model)
    clip = tempo.open(recorded_frames(1, 24, 32, 32))
    tight = clip.ask("What?", min_tokens=2, max_tokens=3, max_new_tokens=1)
    assert {s.tokens for s in tight.segments} == {3} and tight.token_limits == (2, 3)
    pruned = clip.ask("What?", strategy="prune-topk", drop_ratio=0.34, budget=1, max_new_tokens=1)
    assert [s.tokens for s in pruned.segments] == [0, 0, 4, 4, 4, 4]
    assert pruned.usage["visual_tokens"] == 16


@pytest.mark.parametrize(
    "strategy, limits, expected",
    [
        ("head", (2, 4), [4, 2, 3, 0]),
        ("head", (1, 3), [3, 1, 2, 0]),
        ("uniform", (2, 4), [4, 4, 4, 0]),
        ("prune-topk", (2, 4), [4, 0, 0, 0]),
        ("prune-lastk", (2, 3), [0, 3, 0, 0]),
        (None, (2, 3), [4, 4, 4, 0]),
    ],
)
def test_what_segments_keep(strategy, limits, expected):
    """Three segments of four tokens and one of padding; two thirds are pruned."""
    relevance = np.array([0.9, 0.1, 0.5, 1.0], np.float32)
    bank = steps.SegmentMemory(np.arange(1, 33, dtype=np.float32).reshape(4, 4, 2), relevance)
    tags = np.full((4, 2), -1, np.int32)
    selection = steps.allocate_tokens(
        bank, 3, 100, tags, None, strategy=strategy, limits=limits, drop_ratio=0.67
    )
    assert np.asarray(selection.allocation_S).tolist() == expected
    assert int(selection.visual_tokens) == sum(expected)
    kept = np.asarray(selection.kept_SKD)
    if strategy is not None:
        assert [int((rows != 0).all(1).sum()) for rows in kept] == expected


def test_a_source_may_be_opened_by_the_caller(copy, tiny_model):
    tempo = tempo_jax.load(tiny_model)
    path = copy / "videos" / "one.mp4"
    source = open_video(path, config=tempo.config.video)
    expected = tempo.open(path).ask("What?", max_new_tokens=4)
    clip = tempo.open(source)
    assert clip.source is source
    assert clip.ask("What?", max_new_tokens=4).token_ids == expected.token_ids


@pytest.mark.parametrize("sizes", [{"tensor": 0}, {"data": 999}])
def test_a_mesh_that_cannot_be_is_one_sentence(sizes):
    with pytest.raises(TempoError, match=r"^a mesh of data=.* takes \d+ devices and there are"):
        model.mesh({"data": 1, "fsdp": -1, "tensor": 1} | sizes)


@pytest.mark.parametrize("name, value", [("min_tokens", -1), ("max_tokens", 1.5), ("drop_ratio", 2)])
def test_limits_out_of_range_are_one_sentence(name, value):
    with pytest.raises(TempoError, match=f"^{name} is {value}, but it must be"):
        Options(**{name: value})
