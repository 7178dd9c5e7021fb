"""What a run tells of its steps: rates of exactly the steps that a line is about, on a clock of our own."""

import types

import jax
import numpy as np
import pytest

from tempo_jax.models.presets import TINY
from tempo_jax.prompts import IGNORE
from tempo_jax.tasks.llm import Batch
from tempo_jax.training import config as configs
from tempo_jax.training import loop, metrics
from tempo_jax.training.goodput import Goodput
from tempo_jax.training.step import Metrics

FIRST, STEP, WAIT = 50.0, 2.0, 1.0  # seconds of the first step, which compiles, of others, and for data
RATES = ("step_seconds", "tokens_per_second_per_chip", "frames_per_second", "data_wait", "eta_seconds")


class Value:
    """A number of a step that is done at some time; who looks before waits until then."""

    def __init__(self, clock, value, done):
        self.clock, self.value, self.done = clock, np.asarray(value), done

    def is_ready(self):
        return self.clock.now >= self.done

    def __array__(self, *_, **__):
        self.clock.now = max(self.clock.now, self.done)
        return self.value


class Feed:
    """Batches of ten tokens, for the last of which one has to wait.

    skipping: batches left -> reasons of the samples skipped for this one.
    """

    def __init__(self, clock, steps, skipping):
        self.clock, self.left, self.skipping = clock, steps, skipping
        self.stats = {"samples": 0, "skipped": {}, "waste": {}}
        labels = np.full((1, 1, 16), IGNORE)
        labels[..., 9] = 1
        self.fed = types.SimpleNamespace(host=Batch(labels, labels, labels))

    def ready(self):
        return self.left > 1

    def __next__(self):
        self.clock.now += 0 if self.ready() else WAIT
        self.left -= 1
        for reason in self.skipping.get(self.left, []):
            self.stats["skipped"][reason] = self.stats["skipped"].get(reason, 0) + 1
        return self.fed


@pytest.fixture
def clock(monkeypatch):
    """Time passes where steps and batches are waited for, and nowhere else."""
    clock = types.SimpleNamespace(now=100.0)
    for module in (loop, metrics):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def rows(clock, steps, begin=0, synchronous=False, log_every=2, skipping=None):
    """The lines of a run that goes on after step `begin`."""
    config = configs.default()
    config.update({"steps": steps, "log_every": log_every, "task": "llm"})
    config.learning_rate.llm = 1e-3
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    state, model = types.SimpleNamespace(skipped=0), types.SimpleNamespace(config=TINY.llm)
    run = types.SimpleNamespace(
        config=config, model=model, mesh=mesh, state=state, nonfinite_steps=0, goodput=Goodput()
    )
    found, feed = [], Feed(clock, steps - begin, skipping or {})
    watch = loop.StepMonitor(run, types.SimpleNamespace(write=lambda row, steps: found.append(row)), feed)
    busy = 0.0
    for number in range(begin + 1, steps + 1):
        fed, waited = watch.next_batch()
        busy = max(busy, clock.now) + (FIRST if number == begin + 1 else STEP)
        if synchronous:
            clock.now = busy
        told = Metrics(*(Value(clock, x, busy) for x in (1.0, 10, 1.0, True)), group_norms={})
        watch.record(number, fed, told, waited)
    watch.flush()
    return found


@pytest.mark.parametrize("synchronous", [False, True])
def test_rates_are_those_of_the_counted_steps(clock, synchronous):
    """Whether a step is handed over or done when run_step returns; the first one, which compiles, is none."""
    *found, last = rows(clock, 6, synchronous=synchronous)
    for row in found:
        assert row["step_seconds"] == STEP and row["tokens_per_second_per_chip"] == 10 / STEP
        assert row["eta_seconds"] == (6 - row["step"]) * STEP and row["data_wait"] == 0
    assert last["step"] == 6 and last["step_seconds"] == STEP + WAIT / 2
    assert last["data_wait"] == WAIT / (2 * STEP + WAIT)


@pytest.mark.parametrize("synchronous", [False, True])
def test_a_line_about_the_first_step_alone_has_no_rates(clock, synchronous):
    (row,) = rows(clock, 6, begin=5, synchronous=synchronous)
    assert row["step"] == 6 and row["loss"] == 1.0 and all(row[name] is None for name in RATES)
    said = metrics.format_metrics(row, 6)
    assert "loss 1.0000" in said and "- s/step" in said and said.endswith("ETA -") and "None" not in said
    first, *others = rows(clock, 4, synchronous=synchronous, log_every=1)
    assert first["step_seconds"] is None
    assert [row["step_seconds"] for row in others] == [STEP, STEP, STEP + WAIT]


def test_every_reason_to_skip_samples_is_told_once(clock, capsys):
    found = rows(clock, 4, skipping={3: ["too long", "too long"], 0: ["too long", "OSError: no a.png"]})
    assert [row["samples_skipped"] for row in found] == [2, 4]
    # Other lines are of what the process has done before, as programs that came from the compilation cache.
    said = [line for line in capsys.readouterr().err.splitlines() if "samples" in line]
    assert said == ["Skipping samples: too long", "Skipping samples: OSError: no a.png"]
