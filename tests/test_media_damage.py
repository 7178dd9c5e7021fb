"""Damaged media files: told in a sentence, never a traceback or a hang, never silently shorter.

A short version of benchmarks/damaged_files.py.
"""

import numpy as np
import pytest

from benchmarks.damaged_files import FILES, KINDS, PLACES, damage, damaged, judged


def test_damage_is_told(tmp_path):
    """Two damages of each of twenty files."""
    bad = [row for row in judged(range(2), 20, tmp_path) if row[3] in ("shorter", "crash", "hang")]
    assert not bad


def test_a_file_without_damage_is_read_whole(tmp_path, monkeypatch):
    """What is called unharmed: the very bytes."""
    monkeypatch.setattr("benchmarks.damaged_files.damaged", lambda data, name, seed: ("nothing", data))
    verdicts = {row[1]: row[3:] for row in judged(range(1), 20, tmp_path)}
    assert len(verdicts) == sum(map(len, FILES.values()))
    assert {verdict for verdict, _ in verdicts.values()} == {"unharmed"}, verdicts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_damages_change_a_file_and_are_the_same_each_time(kind, place):
    data = np.random.default_rng(0).bytes(5000)
    changed = damage(data, np.random.default_rng(1), kind, place)
    assert changed != data and changed == damage(data, np.random.default_rng(1), kind, place)
    assert damaged(data, "a.mp4", 3) == damaged(data, "a.mp4", 3) != damaged(data, "b.mp4", 3)
