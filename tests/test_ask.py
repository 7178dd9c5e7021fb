"""`tempo ask` and `tempo batch` as a user runs them: a real checkpoint, real files, real mistakes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tempo_jax import checkpoint, cli
from tempo_jax.prompts import DEFAULT_QUESTION
from tempo_jax.video.synthetic import SyntheticVideo, write_video
from tests.systems import recorded_frames

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_checkpoint):
    """A checkpoint `model`, its Hugging Face source `tempo`, and a few files to ask about."""
    folder = tmp_path_factory.mktemp("ask")
    (folder / "model").symlink_to(tiny_checkpoint)
    (folder / "tempo").symlink_to(tiny_checkpoint.parent / "tempo")
    write_video(folder / "good.mp4", SyntheticVideo(seconds=8, fps=10, height=72, width=128), faststart=True)
    (folder / "zero.mp4").touch()
    (folder / "text.mp4").write_text("not a video")
    data = (folder / "good.mp4").read_bytes()
    (folder / "head.mp4").write_bytes(data[:300])
    (folder / "cut.mp4").write_bytes(data[: int(len(data) * 0.7)])
    (folder / "empty").mkdir()
    np.save(folder / "pixel.npy", np.zeros((4, 1, 1, 3), np.uint8))
    np.save(folder / "wide.npy", np.zeros((1, 10, 10_000, 3), np.uint8))
    np.save(folder / "float.npy", np.zeros((4, 8, 8, 3), np.float32))
    np.save(folder / "grey.npy", np.zeros((4, 8, 8), np.uint8))
    np.save(folder / "frames.npy", recorded_frames(0, 12, 64, 128))
    return folder


def _edit_model_json(checkpoint_folder, change):
    path = checkpoint_folder / "model.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def ask(folder, capfd, video, question="What?", *options, model="model"):
    """Exit status, stdout and stderr of `tempo ask`."""
    arguments = ["ask", str(folder / video), question, "--checkpoint", str(folder / model)]
    status = cli.main([*arguments, "--max-new-tokens", "3", *options])
    return status, *capfd.readouterr()


def test_json_is_the_whole_of_stdout(folder, capfd):
    status, out, _ = ask(folder, capfd, "good.mp4", "球是什么颜色？", "--json", "--budget", "30")
    answer = json.loads(out)
    assert status == 0 and out.count("\n") == 1
    assert {"text", "token_ids", "segments", "usage", "timings"} <= set(answer)
    assert answer["usage"]["frames"] == 16 and answer["usage"]["visual_tokens"] <= 30
    assert [set(s) for s in answer["segments"]] == [
        {"index", "start_seconds", "end_seconds", "relevance", "tokens"}
    ] * 2
    assert [s["end_seconds"] for s in answer["segments"]] == [4.0, 8.0]


def test_text_and_plot(folder, capfd, tmp_path):
    status, _, err = ask(folder, capfd, "good.mp4", "What?", "--plot", str(tmp_path / "a.png"))
    assert status == 0 and "16 frames in 2 segments" in err
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_text_and_json_agree(folder, capfd):
    _, text, _ = ask(folder, capfd, "frames.npy", "Which words are on the banner?")
    _, out, _ = ask(folder, capfd, "frames.npy", "Which words are on the banner?", "--json")
    assert json.loads(out)["text"] == text.strip()


def test_an_empty_question_is_said(folder, capfd):
    status, _, err = ask(folder, capfd, "frames.npy", "")
    assert status == 0 and DEFAULT_QUESTION in err


def test_a_truncated_video_is_answered_with_a_warning(folder, capfd):
    status, out, err = ask(folder, capfd, "cut.mp4", "What?", "--json")
    warning = json.loads(out)["warnings"][0]
    assert status == 0 and "seconds" in warning and "missing" in warning and warning in err


@pytest.mark.parametrize(
    "video",
    ["missing.mp4", "empty", "zero.mp4", "text.mp4", "head.mp4"]
    + ["pixel.npy", "wide.npy", "float.npy", "grey.npy"],
)
def test_unusable_videos(folder, capfd, video):
    _one_sentence(ask(folder, capfd, video), video)


@pytest.mark.parametrize(
    "options",
    [
        ["--budget", "0"],
        ["--budget", "-3"],
        ["--budget", "100000000000000000000"],
        ["--max-frames", "0"],
        ["--fps", "0"],
        ["--strategy", "best"],
    ]
    + [["--temperature", "-1"], ["--plot", "nowhere/at/all.png"], ["--plot", "plot.txt"]],
)
def test_unusable_options(folder, capfd, options, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _one_sentence(ask(folder, capfd, "good.mp4", "What?", *options))


def _one_sentence(result, name=""):
    status, out, err = result
    assert status == 2 and out == ""
    assert "Traceback" not in err and name in err
    assert len(err.strip().splitlines()) == 1, err


def _break(path, how):
    if how == "format":
        _edit_model_json(path, lambda values: values.update(format=99))
    elif how == "kind":
        config = json.loads((path / "model.json").read_text())["config"]["llm"]
        _edit_model_json(path, lambda values: values.update(kind="qwen3", config=config))
    elif how == "shape":
        _edit_model_json(path, lambda values: values["config"].update(memory_tokens=17))
    elif how == "json":
        (path / "model.json").write_text("{")
    elif how == "old":
        _edit_model_json(path, lambda values: values.update(format=0))
    elif how == "vocabulary":
        (path / "tokenizer" / "tokenizer.json").write_text("{}")
    elif how == "tokenizer":
        shutil.rmtree(path / "tokenizer")
    elif how == "params":
        shutil.rmtree(path / "params")


@pytest.mark.parametrize(
    "how", ["format", "old", "kind", "shape", "json", "tokenizer", "vocabulary", "params"]
)
def test_unusable_checkpoints(folder, capfd, tmp_path, how):
    broken = tmp_path / "broken"
    shutil.copytree(folder / "model", broken)
    _break(broken, how)
    _one_sentence(ask(folder, capfd, "good.mp4", model=broken))


def test_hugging_face_folders_and_nothing_at_all_are_no_checkpoints(folder, capfd):
    _one_sentence(ask(folder, capfd, "good.mp4", model="tempo"))
    _one_sentence(ask(folder, capfd, "good.mp4", model="nothing"))


def test_batch_goes_on_after_a_bad_case(folder, capfd):
    cases = [{"video_path": v, "query": "What?"} for v in ("frames.npy", "zero.mp4", "good.mp4")]
    (folder / "cases.json").write_text(json.dumps(cases))
    out = folder / "out.jsonl"
    status = cli.main(
        ["batch", str(folder / "cases.json"), "--out", str(out), "--checkpoint", str(folder / "model")]
        + ["--max-new-tokens", "2"]
    )
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert status != 0 and ["error" in line for line in lines] == [False, True, False]
    assert lines[2]["usage"]["segments"] == 2


def test_the_checkpoint_says_what_it_is(folder):
    info = checkpoint.read_model_json(folder / "model")
    assert info.kind == "tempo" and info.config.video.min_pixels == 16_384


def test_damaged_arrays_are_one_sentence_and_no_traceback(folder, tmp_path):
    """In a process of its own: what is left of the reading speaks up late."""
    broken = tmp_path / "broken"
    shutil.copytree(folder / "model", broken)
    largest = max((f for f in broken.glob("params/**/d/*") if f.is_file()), key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    command = [sys.executable, "-m", "tempo_jax.cli", "ask", str(folder / "good.mp4"), "What?"]
    done = subprocess.run([*command, "--checkpoint", str(broken)], capture_output=True, text=True, cwd=REPO)
    _one_sentence((done.returncode, done.stdout, done.stderr), "damaged or incomplete")
