"""Conversion: everything wrong told at once, in one sentence, and nothing half-written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert import from_hf, safetensors_io, to_hf, verify
from tempo_jax import checkpoint
from tempo_jax.errors import TempoError
from tests import tiny_checkpoints as tiny

CONFIG = tiny.tiny_config(16, tiny.SMALL)
REPO = Path(__file__).resolve().parent.parent


def test_all_problems_at_once(published, tmp_path):
    arrays = tiny.tensors("tempo", CONFIG)
    del arrays["model.norm.weight"], arrays["model.layers.1.mlp.up_proj.weight"]
    arrays["model.surprise"] = np.zeros(3, np.float32)
    arrays["model.layers.0.mlp.down_proj.weight"] = np.zeros((160, 80), np.float32)
    arrays["model.mm_projector.bias"] = np.zeros(80, np.int64)
    source = tiny.write(tmp_path / "hf", arrays, tiny.hf_json("tempo", CONFIG))
    with pytest.raises(TempoError) as caught:
        from_hf.convert("tempo", source, tmp_path / "native", base=published / "base")
    message = str(caught.value)
    assert "missing: model.layers.1.mlp.up_proj.weight, model.norm.weight" in message
    assert "unexpected: model.surprise" in message
    assert "down_proj.weight is [160, 80], expected [80, 160]" in message
    assert "model.mm_projector.bias is I64" in message
    assert "\n" not in message
    assert not (tmp_path / "native").exists()


def test_interrupted_conversion_leaves_nothing(published, tmp_path, monkeypatch):
    """Whether it stops by an exception or is killed, there is nothing that loads; a new run succeeds."""
    real, count = safetensors_io.Reader.read_matrix, [0]

    def failing(self, *args):
        count[0] += 1
        if count[0] == 60:
            raise KeyboardInterrupt
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors_io.Reader, "read_matrix", failing)
        with pytest.raises(KeyboardInterrupt):
            from_hf.convert("tempo", published / "tempo", tmp_path / "native", base=published / "base")
    assert list(tmp_path.iterdir()) == []
    killed = """if True:
        import os, sys
        from convert import from_hf
        real = from_hf._arrays
        from_hf._arrays = lambda *a: (x if i < 9 else os._exit(9) for i, x in enumerate(real(*a)))
        from_hf.convert("tempo", sys.argv[1] + "/tempo", sys.argv[2], base=sys.argv[1] + "/base")
    """
    command = [sys.executable, "-c", killed, str(published), str(tmp_path / "native")]
    assert subprocess.run(command, cwd=REPO, check=False).returncode == 9
    assert not (tmp_path / "native").exists()
    for leftover in tmp_path.iterdir():
        with pytest.raises(TempoError):
            checkpoint.read_model_json(leftover)
    from_hf.convert("tempo", published / "tempo", tmp_path / "native", base=published / "base")
    assert [f.name for f in tmp_path.iterdir()] == ["native"]


def test_existing_target_is_kept(published, tmp_path):
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "precious").touch()
    with pytest.raises(TempoError, match="exists already"):
        from_hf.convert("qwen3", published / "llm", tmp_path / "native")
    with pytest.raises(TempoError, match=r"did not write \(precious\).* --overwrite=force"):
        from_hf.convert("qwen3", published / "llm", tmp_path / "native", overwrite=True)
    assert (tmp_path / "native" / "precious").exists()
    from_hf.convert("qwen3", published / "llm", tmp_path / "native", overwrite="force")
    from_hf.convert("qwen3", published / "llm", tmp_path / "native", overwrite=True)
    assert checkpoint.read_model_json(tmp_path / "native").kind == "qwen3"


def damage(folder: Path, how: str) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    if how == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif how == "header":
        file.write_bytes(data[:8] + b"#" + data[9:])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "pickle":
        file.rename(folder / "pytorch_model.bin")
    elif how == "config":
        (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("how", "words"),
    [("cut", "its header announces"), ("header", "damaged header"), ("empty", "cut short"),
     ("pickle", "convert them to safetensors first"), ("config", "is not JSON")],
)  # fmt: skip
def test_damaged_files_are_a_sentence(published, tmp_path, how, words):
    shutil.copytree(published / "llm", tmp_path / "llm")
    damage(tmp_path / "llm", how)
    with pytest.raises(TempoError, match=words):
        from_hf.convert("qwen3", tmp_path / "llm", tmp_path / "native")


def test_missing_shard_is_a_sentence(published, tmp_path):
    shutil.copytree(published / "base", tmp_path / "base")
    (tmp_path / "base" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(TempoError, match=r"lacks model-00002-of-00002\.safetensors"):
        from_hf.convert("qwen3-vl", tmp_path / "base", tmp_path / "native")
    index = tmp_path / "base" / safetensors_io.INDEX
    index.write_text(json.dumps({"weight_map": {"x": "../../outside.safetensors"}}))
    with pytest.raises(TempoError, match="lies outside"):
        from_hf.convert("qwen3-vl", tmp_path / "base", tmp_path / "native")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model=xcomp"], "use --model=tempo"),
        (["--model=tempo"], "pass --base"),
        (["--model=qwen3-vl"], "use --model=tempo"),
        (["--model=qwen3", "--base=x"], "leave it out"),
        (["--model=nothing"], "invalid choice"),
    ],
)
def test_commands_end_in_one_sentence(published, tmp_path, capsys, arguments, words):
    arguments = [*arguments, f"--source={published / 'tempo'}", f"--target={tmp_path / 'x'}"]
    try:
        status = from_hf.main(arguments)
    except SystemExit as stop:  # argparse
        status = stop.code
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_commands(published, tmp_path, capsys):
    native, back = tmp_path / "native", tmp_path / "back"
    assert from_hf.main(["--model=qwen3", f"--source={published / 'llm'}", f"--target={native}"]) == 0
    assert to_hf.main([f"--source={native}", f"--target={back}"]) == 0
    assert verify.main([f"--native={native}", f"--hf={back}"]) == 0
    assert verify.main([f"--native={native}", f"--hf={published / 'base'}"]) == 1
    assert to_hf.main([f"--source={tmp_path}", f"--target={back}2"]) == 2
    assert "no model.json" in capsys.readouterr().err
