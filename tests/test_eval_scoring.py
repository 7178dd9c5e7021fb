"""Intervals, relevance AUC, groups and the score of each benchmark, against values worked out by hand."""

import numpy as np
import pytest

from tempo_jax.evaluation import scoring
from tempo_jax.evaluation.annotations import Question
from tempo_jax.evaluation.benchmarks import LVBENCH, MLVU
from tempo_jax.evaluation.results import results
from tempo_jax.evaluation.settings import Setting

SETTING = Setting(1024, "head", 8192, 4, 0)


@pytest.mark.parametrize(
    "right, asked, low, high",
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
        (527, 1000, 0.4960, 0.5578),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(right, asked, low, high):
    assert scoring.wilson(right, asked) == pytest.approx((low, high), abs=1e-4)


def test_the_interval_of_a_mean_covers_what_it_should():
    rng = np.random.default_rng(0)
    shares, sizes, covered = np.array([0.9, 0.5, 0.25]), np.array([40, 200, 100]), 0
    for _ in range(400):
        right = rng.binomial(sizes, shares)
        low, high = scoring.mean_interval(list(zip(right.tolist(), sizes.tolist())))
        covered += low <= shares.mean() <= high
    assert 365 <= covered <= 395  # of 400


def test_auc():
    scores, matters = np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])
    assert scoring.auc(scores, matters) == (1 + 1 + 0.5 + 1) / 4
    assert scoring.auc(scores, np.zeros(4, bool)) is None
    assert scoring.auc(scores, ~matters) == 0.5 / 4


def test_segments_that_share_time_with_a_span():
    times = [(0, 4), (4, 8), (8, 12)]
    assert scoring.overlapping(times, [(4, 5)]).tolist() == [False, True, False]
    assert scoring.overlapping(times, [(3.9, 4.1)]).tolist() == [True, True, False]
    assert scoring.overlapping(times, []).tolist() == [False] * 3


def row(question, right, **changes):
    return {
        "question": question.id, "setting": SETTING.name, "video": question.video, "right": right,
        "prediction": "A", "text": "A", "failure": "", "damage": "", "auc": None, "tokens_per_frame": 2.0,
        "visual_tokens": 16, "frames": 8, "prompt_tokens": 30, "new_tokens": 1, "warnings": [], **changes,
    }  # fmt: skip


def scored(benchmark, tasks, right):
    questions = [Question(f"{i}", "v", "p", "ABCD", (), "A", {"task": task}) for i, task in enumerate(tasks)]
    rows = {(q.id, SETTING.name): row(q, r) for q, r in zip(questions, right)}
    return results(benchmark, questions, [SETTING], rows, {})["settings"][0]


def test_mlvu_is_the_mean_over_tasks_and_lvbench_is_not():
    tasks, right = [("ego",), ("ego",), ("ego",), ("count",)], [True, True, False, False]
    found = scored(MLVU, tasks, right)
    assert found["score"]["accuracy"] == (2 / 3 + 0) / 2
    assert found["score"]["of"] == "mean over 2 groups of task" and found["all"]["accuracy"] == 0.5
    assert scored(LVBENCH, tasks, right)["score"]["accuracy"] == 0.5


def test_a_question_counts_in_each_of_its_groups():
    found = scored(LVBENCH, [("a", "b"), ("b",)], [True, False])["groups"]["task"]
    assert {name: (part["right"], part["questions"]) for name, part in found.items()} == {
        "a": (1, 1), "b": (1, 2),
    }  # fmt: skip


def test_durations_are_in_their_order():
    tasks = [("long",), ("m²",), ("²",), ("short",), ("medium",), ("600",), ("15",), ("3600",)]
    assert list(scored(LVBENCH, tasks, [True] * 8)["groups"]["task"]) == [
        "short", "medium", "long", "15", "600", "3600", "m²", "²",
    ]  # fmt: skip
