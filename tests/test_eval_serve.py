"""A model behind a pipe, and in lmms-eval where that is at hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tempo_jax
from tempo_jax.errors import TempoError
from tempo_jax.evaluation import serve
from tempo_jax.evaluation.pipe import Served
from tempo_jax.runtime.results import Answer
from tests.eval_runs import REPO

LMMS_EVAL = os.environ.get("TEMPO_LMMS_EVAL_PYTHON")  # an interpreter that has lmms-eval
TASK = """\
task: tempo_local
dataset_path: json
dataset_kwargs: {data_files: {test: DOCS}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: "answer"
generation_kwargs: {max_new_tokens: 4}
process_results: !function utils.process
metric_list: [{metric: same, aggregation: mean, higher_is_better: true}]
"""
UTILS = """\
def visual(doc):
    return [doc["video"]]

def text(doc, settings=None):
    return doc["question"]

def process(doc, results):
    return {"same": float(results[0] == doc["answer"])}
"""


class Model:
    def __init__(self):
        self.calls = []

    def open(self, video, **options):
        self.calls.append((video, options))
        if "bad" in video:
            raise TempoError("There is no such video.")
        return self

    def ask(self, prompt, **options):
        self.calls.append((prompt, options))
        if prompt == "bug":
            raise ZeroDivisionError("x")
        return Answer(prompt.upper(), [1], [], {"frames": 8}, {}, ["A warning."])


def line(video, prompt):
    return json.dumps({"video": video, "prompt": prompt, "max_new_tokens": 4})


def test_questions_about_one_video_share_it(monkeypatch):
    model = Model()
    monkeypatch.setattr(tempo_jax, "load", lambda checkpoint, **options: model, raising=False)
    lines = [line("a", "x"), line("a", "猫\ud800"), line("bad", "y"), line("a", "bug"), "{", line("a", "z")]
    options = {"checkpoint": "c", "budget": 64, "min_frames": 8, "dtype": "float32"}
    told = list(serve.replies(options, lines))
    assert told[0] == {"ready": True}
    assert told[1] == {"text": "X", "usage": {"frames": 8}, "warnings": ["A warning."]}
    assert told[2]["text"] == "猫\ufffd" and told[3] == {"error": "There is no such video."}
    assert "internal error: ZeroDivisionError" in told[4]["error"] and "internal error" in told[5]["error"]
    assert told[6]["text"] == "Z"
    opened = [call for call in model.calls if "min_frames" in call[1]]
    assert [name for name, _ in opened] == ["a", "bad", "a"]
    assert model.calls[1] == ("x", {"max_new_tokens": 4, "budget": 64})


def test_mistakes_are_sentences():
    (told,) = serve.replies({"checkpoint": "c", "bogus": 1}, [])
    assert told["error"].startswith("there is no option bogus: use some of checkpoint, dtype")
    with pytest.raises(TempoError, match="nowhere is not a folder"):
        Served(sys.executable, {"checkpoint": "nowhere"})
    with pytest.raises(TempoError, match="/no/python cannot be started"):
        Served("/no/python", {})


@pytest.mark.skipif(not LMMS_EVAL, reason="TEMPO_LMMS_EVAL_PYTHON names no interpreter with lmms-eval")
def test_lmms_eval_asks_our_model(tiny_model, tmp_path):
    """The real package, a task of our own about a local video: all replies are those of `ask`."""
    from tests.benchmark_copies import write_videos

    write_videos(tmp_path / "videos")
    tempo = tempo_jax.load(tiny_model, context_length=32_768)
    docs = []
    for question in ("What is seen?", "Where is it?"):
        for name in ("one", "two"):
            path = str(tmp_path / "videos" / f"{name}.mp4")
            answer = tempo.ask(path, question, min_frames=8, max_new_tokens=4).text
            docs.append({"video": path, "question": question, "answer": answer})
    task = tmp_path / "task"
    task.mkdir()
    (task / "docs.json").write_text(json.dumps(docs))
    (task / "utils.py").write_text(UTILS)
    (task / "local.yaml").write_text(TASK.replace("DOCS", str(task / "docs.json")))
    command = [
        LMMS_EVAL, "-m", "lmms_eval", "--model", "tempo_jax", "--tasks", "tempo_local",
        "--include_path", str(task),
        "--model_args", f"pretrained={tiny_model},python={sys.executable}", "--batch_size", "1",
        "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(REPO), "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    (found,) = Path(tmp_path / "out").rglob("*_results.json")
    assert json.loads(found.read_text())["results"]["tempo_local"]["same,none"] == 1.0
