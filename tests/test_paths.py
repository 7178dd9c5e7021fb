"""No command takes a URL for a folder."""

import pytest

from convert import from_hf, to_hf
from tempo_jax.data import prepare
from tempo_jax.data.minireel import __main__ as minireel
from tempo_jax.utils import paths
from tests import tiny_checkpoints

URL = "s3://bucket/new"


@pytest.mark.parametrize("path", ["gs://bucket/new", "gs:/bucket/new", "GS:///bucket/new"])
def test_urls_are_told_as_they_were_meant(path):
    assert paths.url(path).lower() == "gs://bucket/new" and paths.remote(path)


@pytest.mark.parametrize("path", ["", "a/b", "/data/gs://b", "C:/data", "gs:", "run:1/x", "10:30/x"])
def test_paths_are_no_urls(path):
    assert paths.url(path) == ""


def test_every_target_is_a_path(tmp_path, monkeypatch, capsys):
    """A sentence each where storage is none that is read, and nothing is written."""
    hf = tiny_checkpoints.write_llm(tmp_path / "hf", vocab=64)
    from_hf.convert("qwen3", hf, tmp_path / "native")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    capsys.readouterr()
    for main, arguments in (
        (from_hf.main, ["--model=qwen3", f"--source={hf}", f"--target={URL}"]),
        (to_hf.main, [f"--source={tmp_path / 'native'}", f"--target={URL}"]),
        (prepare.main, ["--minireel=train", "--count=1", f"--target={URL}", "--overwrite"]),
        (minireel.main, [URL, "--count=1"]),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr()
        assert (
            f"{URL} is " in said.err
            and f"{paths.MOUNT}\n" in said.err
            and said.err.count("\n") == 1
            and not said.out
        )
    assert not list((tmp_path / "here").iterdir())
