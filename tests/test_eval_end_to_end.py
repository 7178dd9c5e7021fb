"""eval.py itself with real, converted tiny checkpoints of both systems: nothing stands in for the model.

Every benchmark's small copy under both systems' protocols; killed and continued; with missing, broken and
late videos.
"""

import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from convert import from_hf
from convert.mapping import tensors
from tempo_jax.evaluation import rows
from tempo_jax.evaluation.protocols import PROTOCOLS
from tempo_jax.models.presets import XCOMP_TINY
from tests import benchmark_copies as copies
from tests import tiny_checkpoints
from tests import xcomp_systems as xcomp
from tests.eval_runs import REPO

pytestmark = pytest.mark.usefixtures("quick_compilation")
SMALL = ("--config.decode_workers=0", "--config.dtype=float32", "--config.mesh.fsdp=1")
# What of published settings is too much for tiny models: frames and budgets only.
CONFIGS = {
    "tempo": ("configs/eval_{}.py", "--config.min_frames=4", "--config.budget=8"),
    "xcomp": ("configs/eval_xcomp.py:{}", "--config.min_frames=8", "--config.budget=128"),
}
LAYERS = 4  # of 28, which take long to compile
NAMES = ("lvbench", "videomme", "mlvu", "longvideobench")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, tiny_checkpoint, demo_tokenizer_dir):
    """System -> a native checkpoint that convert.from_hf made of the published layout."""
    root = tmp_path_factory.mktemp("xcomp")
    vision = dataclasses.replace(XCOMP_TINY.vision, patch_size=56)  # 64 patches a frame, not 784
    small = dataclasses.replace(
        XCOMP_TINY, vision=vision, llm=dataclasses.replace(XCOMP_TINY.llm, num_layers=LAYERS)
    )
    arrays = {n: xcomp.tensor(n, e.hf_shape) for e in tensors("xcomp", small) for n in e.hf}
    sizes = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "num_key_value_heads": 2, "mm_hidden_size": 128,
    }  # fmt: skip
    values = json.loads((xcomp.FOLDER / "config_train.json").read_text()) | sizes
    tiny_checkpoints.write(root / "hf", arrays, values, tokenizer_dir=demo_tokenizer_dir)
    from_hf.convert("xcomp", root / "hf", root / "native", dtype="float32")
    path = root / "native" / "model.json"
    values = json.loads(path.read_text())
    values["config"]["score_layers"] = [1, 3]
    path.write_text(json.dumps(values))
    return {"tempo": tiny_checkpoint, "xcomp": root / "native"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("copies")
    for name in NAMES:
        copies.WRITERS[name](root / name)
    return root


def arguments(system, name, checkpoints, folder, workdir):
    config, *limits = CONFIGS[system]
    return [
        f"--config={config.format(name)}", f"--workdir={workdir}", f"--config.data.path={folder}",
        f"--config.checkpoint={checkpoints[system]}", *limits, *SMALL,
    ]  # fmt: skip


@pytest.fixture
def run(monkeypatch, capsys):
    """(status, stdout, stderr) of eval.py, in this process."""

    def run(*given):
        found = importlib.util.spec_from_file_location("eval_script", REPO / "eval.py")
        script = importlib.util.module_from_spec(found)
        found.loader.exec_module(script)  # afresh: flags remember
        argv = ["eval.py", *given, "--processes=1", "--process=0"]
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.chdir(REPO)
        return script.main(argv), *capsys.readouterr()

    return run


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("system", CONFIGS)
def test_every_benchmark_with_a_real_checkpoint(system, name, checkpoints, folders, tmp_path, run):
    given = arguments(system, name, checkpoints, folders / name, tmp_path)
    status, _, err = run(*given, "--config.allow_missing=True")
    assert status == 3, err
    assert "eval: not answered: 1 answer (videos missing), 2 answers (videos not decodable);" in err
    results = json.loads((tmp_path / "report.json").read_text())["results"]
    assert results["answers"] == 4 and results["model"]["origin"]
    assert results["title"] == PROTOCOLS[system][name].title
    answered = [row for row in rows.read(tmp_path).values() if not row["failure"]]
    assert len(answered) == 4 and all(row["frames"] >= 4 and row["visual_tokens"] > 0 for row in answered)
    assert {row["prediction"] for row in answered} <= set("ABCDE") | {""}


def test_a_checkpoint_of_the_other_system_is_refused(checkpoints, folders, tmp_path, run):
    for system, other in (("tempo", "xcomp"), ("xcomp", "tempo")):
        swapped = {system: checkpoints[other]}
        status, _, err = run(*arguments(system, "mlvu", swapped, folders / "mlvu", tmp_path))
        assert status == 2 and f"holds a model of kind '{other}' where '{system}' is needed" in err


@pytest.mark.parametrize("system", CONFIGS)
def test_killed_and_continued_with_late_and_broken_videos(system, checkpoints, folders, tmp_path, run):
    """As on a machine: a process killed after its first answer, and the same command again and again."""
    folder = shutil.copytree(folders / "lvbench", tmp_path / "lvbench")
    given = arguments(system, "lvbench", checkpoints, folder, tmp_path / "work")
    given.append("--config.decode_batch=2")
    status, _, err = run(*given)
    assert status == 2 and "1 of 5 videos are missing" in err
    given.append("--config.allow_missing=True")
    child = subprocess.Popen([sys.executable, "eval.py", *given], cwd=REPO, stderr=subprocess.PIPE)
    written = tmp_path / "work" / "rows" / "0.jsonl"
    answers = 0
    deadline = time.monotonic() + 300
    while child.poll() is None and not answers and time.monotonic() < deadline:
        answers = written.read_bytes().count(b'"failure": ""') if written.exists() else 0
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert answers and not (tmp_path / "work" / "report.md").exists()
    before = written.read_bytes()
    assert run(*given)[0] == 3
    assert written.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    killed = json.loads((tmp_path / "work" / "report.json").read_text())["results"]
    whole = [f"--workdir={tmp_path / 'whole'}" if "--workdir" in word else word for word in given]
    assert run(*whole)[0] == 3
    assert json.loads((tmp_path / "whole" / "report.json").read_text())["results"] == killed
    sound = (folder / "videos" / "one.mp4").read_bytes()
    (folder / "videos" / "late").mkdir()
    for late in ("late/missing.m4v", "cut.mp4", "empty.mp4"):
        (folder / "videos" / late).write_bytes(sound)
    status, out, err = run(*given)
    complaints = [line for line in err.splitlines() if "of 8 devices" not in line]
    assert (status, complaints) == (0, []) and "0 not answered" in out
    results = json.loads((tmp_path / "work" / "report.json").read_text())["results"]
    assert results["answers"] == 7 and not results["failures"]
