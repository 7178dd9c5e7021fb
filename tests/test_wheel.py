"""The wheel: its packages, and a question answered by it away from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGES = ("tempo_jax", "convert", "configs")

pytest.importorskip("build", reason="build is not installed: pip install -e '.[test]'")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the sources: building leaves folders beside them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "benchmarks", "examples"):  # what must stay out
        (source / name).mkdir()
        (source / name / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_top_level(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)
    assert "tempo_jax/py.typed" in names
    pages = {p.relative_to(REPO).as_posix() for p in (REPO / "tempo_jax/serve/ui").rglob("*") if p.is_file()}
    assert pages and pages <= set(names)
    modules = {p.relative_to(REPO).as_posix() for top in PACKAGES for p in (REPO / top).rglob("*.py")}
    assert modules <= set(names)


@pytest.mark.slow
def test_ask_away_from_the_checkout(wheel, tmp_path):
    installed, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    zipfile.ZipFile(wheel).extractall(installed)
    demo, video = REPO / "checkpoints" / "demo", REPO / "examples" / "hour" / "test-000050-4096s.mp4"
    environment = os.environ | {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    environment.pop("TEMPO_CHECKPOINT", None)
    options = ["--checkpoint", str(demo), "--max-frames", "16", "--max-new-tokens", "8", "--json"]
    command = [sys.executable, "-m", "tempo_jax.cli", "ask", str(video), "What is shown?", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=work, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["usage"]["frames"] == 16 and answer["text"]
    where = subprocess.run(
        [sys.executable, "-c", "import tempo_jax, convert; print(tempo_jax.__file__, convert.__file__)"],
        capture_output=True,
        text=True,
        cwd=work,
        env=environment,
    )
    assert where.stdout.count(str(installed)) == 2
