"""The benchmark beside the original runs, and both systems give the same ids and allocations."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tempo_jax import ata

REPO = Path(__file__).resolve().parent.parent

pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[test]'")


def test_the_originals_allocation_is_ours():
    from benchmarks.original_pytorch import allocate

    rng = np.random.default_rng(0)
    for budget in (60, 128, 500, 8192):
        relevance = rng.random(9, np.float32)
        ours = ata.allocate(relevance, np.ones(9, bool), budget)
        np.testing.assert_array_equal(allocate(relevance, budget), np.asarray(ours))


def test_small_run(tmp_path):
    out = tmp_path / "out.json"
    command = [sys.executable, str(REPO / "benchmarks" / "beside_original.py"), "--small", "--frames", "12"]
    command += ["--rounds", "1", "--stage-rounds", "0", "--new-tokens", "4", "--out", str(out)]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # one device
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    (measured,) = json.loads(out.read_text()).values()
    assert measured["agreement"].startswith("8 of 8 answers with the same ids, 8 with the same allocation")
    assert "first question" in done.stdout and "peak memory" in done.stdout
    for sides in measured["ways"].values():
        assert all(sample["cpu"] > 0 for samples in sides.values() for sample in samples)


def test_a_difference_ends_it():
    from benchmarks import beside_original

    same, other = [([1, 2], [4], [0.5])], [([1, 3], [4], [0.5])]
    assert beside_original.compare(same, same, "float32").startswith("1 of 1")
    with pytest.raises(SystemExit, match="differ: 0 of 1 answers"):
        beside_original.compare(same, other, "float32")
    assert beside_original.compare(same, other, "bfloat16").startswith("0 of 1")
