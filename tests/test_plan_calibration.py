"""Corrections of predicted step times by published ones, and where a plan shows them."""

import datetime
import math

import pytest

from tempo_jax.plan import calibration, compile, cost, memory, report, topology
from tempo_jax.plan.calibration import COMPARISONS, Comparison

GENERATIONS = {comparison.generation for comparison in COMPARISONS}


def _comparison(slice_name, published, predicted):
    parts = (predicted / 2, predicted / 4, predicted / 8, predicted / 8)
    return Comparison("a model", slice_name, published, "a time", "a file", "2026-01-01", *parts)


def _plan(slice_name, training=True, oom=None):
    """A plan of one program that takes 2 s."""
    chip = topology.parse(slice_name).chip
    needed = memory.Memory(1.0, 0.5, 0.5, 0.0, 0.0, ())
    found = cost.Cost(1.0, 0.5, 0.5, 1, (), 0)
    done = compile.ProgramReport("train step", chip, 4, 1e15, 100, 1, 0.0, 0.0, 1.0, needed, found, oom)
    return compile.Plan(topology.parse(slice_name), {"fsdp": 4}, training, (done,))


def test_every_comparison_is_whole():
    assert len(COMPARISONS) >= 5 and len({(c.program, c.topology) for c in COMPARISONS}) == len(COMPARISONS)
    for one in COMPARISONS:
        assert topology.parse(one.topology).chips >= 4, one.program
        assert one.predicted_seconds > one.matmul_seconds > 0 and one.kernel_seconds > 0, one.program
        assert 0.4 < one.ratio < 2.5, f"{one.program}: another program, or another count of its FLOPs"
        assert datetime.date.fromisoformat(one.date) < datetime.date(2027, 1, 1)
        assert one.source.startswith("https://github.com/AI-Hypercomputer/") and one.source.endswith(".md")


def test_a_correction_is_the_geometric_mean_of_its_generation(monkeypatch):
    rows = (
        _comparison("v6e:4x4", 2.0, 4.0),
        _comparison("v6e:8x8", 2.0, 1.0),
        _comparison("v5e:4x4", 3.0, 2.0),
    )
    monkeypatch.setattr(calibration, "COMPARISONS", rows)
    assert calibration.correction("v6e") == pytest.approx((1.0, 0.5, 2.0, 2))
    assert calibration.correction("v5e") == pytest.approx((1.5, 1.5, 1.5, 1))
    assert calibration.correction("v4") is None


@pytest.mark.parametrize("generation", sorted(GENERATIONS))
def test_the_table_gives_each_generation_a_correction_within_its_spread(generation):
    found = calibration.correction(generation)
    assert found.lowest <= found.ratio <= found.highest
    logs = [math.log(c.ratio / found.ratio) for c in COMPARISONS if c.generation == generation]
    assert len(logs) == found.programs and math.fsum(logs) == pytest.approx(0, abs=1e-9)


def test_a_training_plan_shows_its_calibrated_step_time(monkeypatch):
    rows = (_comparison("v6e:4x4", 3.0, 4.0), _comparison("v6e:8x8", 4.0, 3.0))
    monkeypatch.setattr(calibration, "COMPARISONS", rows)
    plan = _plan("v6e:2x2")
    line = report.to_text(plan).splitlines()[-1]
    assert line == (
        "Step time calibrated 2 s (1.5 s to 2.67 s: ratio 1.00, 0.75 to 1.33, of published times of 2 "
        "programs on v6e to their predictions)"
    )
    values = report.to_json(plan)["calibrated"]
    assert values["seconds"] == pytest.approx(2.0) and values["programs"] == 2
    assert (values["lowest_seconds"], values["highest_ratio"]) == pytest.approx((1.5, 4 / 3))


def test_one_program_has_no_spread(monkeypatch):
    monkeypatch.setattr(calibration, "COMPARISONS", (_comparison("v5p:4x4x4", 3.0, 4.0),))
    assert report.to_text(_plan("v5p:2x2x1")).splitlines()[-1] == (
        "Step time calibrated 1.5 s (ratio 0.75, of the published time of one program on v5p to its "
        "prediction)"
    )


@pytest.mark.parametrize(
    ("plan", "line"),
    [
        (_plan("v4:2x2x1"), "Not calibrated: no program with a published time on v4 was compared"),
        (
            _plan("v6e:2x2", training=False),
            "Not calibrated: every program with a published time that was compared is a training step",
        ),
    ],
)
def test_a_plan_says_why_it_is_not_calibrated(plan, line):
    assert report.to_text(plan).splitlines()[-1] == line
    assert report.to_json(plan)["calibrated"] is None


def test_what_does_not_fit_has_no_calibrated_time():
    plan = _plan("v6e:2x2", oom=memory.check_capacity(2.0, 0.0, 1.0))
    assert "calibrated" not in report.to_text(plan) and report.to_json(plan)["calibrated"] is None
