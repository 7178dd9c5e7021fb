"""What a run tells: a line every few steps, the same as JSON lines and to its loggers."""

import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from ml_collections import ConfigDict

from tempo_jax.tasks import TASKS, flops
from tempo_jax.tasks.base import Work
from tempo_jax.training import loggers
from tempo_jax.training.optimiser import OptimiserConfig, schedule
from tempo_jax.utils.mirror import Mirror


class Meter:
    """Rates since the last line, in seconds of the wall clock: from the end of a step to that of another."""

    def __init__(self, config: ConfigDict, model: Any, mesh: jax.sharding.Mesh):
        self._model, self._steps_to_do, self._task = model, config.steps, TASKS[config.task]
        self._rates = {name: rate for name, rate in config.rates.items() if rate > 0}
        self._schedule = schedule(optimiser_config(config), 1.0)
        self._chips, self._local = mesh.size, len(mesh.local_devices)
        self._peak = flops.peak(mesh.devices.flat[0])
        self.last: dict[str, float | None] = {}  # of the last line, what processes may differ in
        self.restart()

    def restart(self) -> None:
        """Forgets what was counted; the clock starts now, at the end of a step."""
        self._began, self._steps, self._waited, self._flops = time.perf_counter(), 0, 0.0, 0.0
        self._work = Work(0, 0)
        self._skipped, self._last_step = 0.0, self._began

    def skip(self) -> None:
        """The time since the last step counts for none."""
        self._skipped += time.perf_counter() - self._last_step

    def count(self, host: Any, waited: float) -> None:
        """One more step on this host batch; waited: seconds the device had nothing to do for it."""
        done = self._task.counts(host, getattr(self._model, "memory_tokens", 0))
        self._work = Work(*(a + b for a, b in zip(self._work, done)))
        # A host batch is this process's share of the step.
        self._flops += self._task.step_flops(self._model, host, self._rates) * jax.process_count()
        self._steps += 1
        self._waited += waited
        self._last_step = time.perf_counter()

    def row(
        self,
        step: int,
        loss: float,
        norm: float,
        group_norms: Mapping[str, float],
        skipped: int,
        stats: Mapping[str, Any],
    ) -> dict:
        """All values of one line, and a new start. stats: of tasks.Batches.

        Loss and gradient norm are this step's own, so that a resumed run repeats them bit for bit;
        rates are means over the steps counted since the last line, None where there are none.
        """
        # The schedule does not count skipped steps, and this step was taken at the count before it.
        factor = float(self._schedule(max(step - 1 - skipped, 0)))
        row = {
            "step": step,
            "loss": loss,
            "gradient_norm": norm,
            **{f"gradient_norm_{group}": value for group, value in group_norms.items()},
            "lr": factor * max(self._rates.values()),
            "skipped": skipped,
            **self._speed(self._steps_to_do - step),
            "samples": stats["samples"],
            "samples_skipped": sum(stats["skipped"].values()),
            **{f"padding_{kind}": share for kind, share in stats["waste"].items()},
        }
        self.restart()
        return {name: None if _not_finite(value) else value for name, value in row.items()}

    def _speed(self, steps_left: int) -> dict[str, float | None]:
        seconds = max(time.perf_counter() - self._began - self._skipped, 1e-9)
        per_chip = self._flops / seconds / self._chips
        speed = {
            "step_seconds": seconds / max(self._steps, 1),
            "tokens_per_second_per_chip": self._work.tokens / seconds / self._local,
            "frames_per_second": self._work.frames / seconds * jax.process_count(),
            "tflops_per_second_per_chip": per_chip / 1e12,
            "mfu": per_chip / self._peak if self._peak else None,
            "data_wait": min(self._waited / seconds, 1.0),
            "eta_seconds": steps_left * seconds / max(self._steps, 1),
        }
        speed = speed if self._steps else dict.fromkeys(speed)
        self.last = {name: speed[name] for name in ("step_seconds", "data_wait")}
        return speed


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)  # JSON has no name for it


def optimiser_config(config: ConfigDict) -> OptimiserConfig:
    """The optimiser's part of a run's config."""
    return OptimiserConfig(rates=dict(config.rates), steps=config.steps, **config.optimiser)


class Log:
    """The files of process 0, and its lines on stderr; other processes write nothing."""

    def __init__(
        self, workdir: Path, step: int, names: Iterable[str] = ("tensorboard",), config: dict | None = None
    ):
        """Continues after `step`: what an interrupted run wrote beyond it is taken back.

        names: of loggers.LOGGERS. config: what they show the run by.
        """
        self._files: dict[str, TextIO] = {}
        self._loggers: list[loggers.Logger] = []
        self._mirror: Mirror | None = None
        if jax.process_index() != 0:
            return
        self._mirror = Mirror(workdir, ("log.jsonl", "validation.jsonl", "loggers.json"))
        workdir = self._mirror.folder
        for name in ("log.jsonl", "validation.jsonl"):
            _truncate(workdir / name, step)
        self._workdir = workdir
        self._loggers = loggers.opened(names, workdir, step, config or {})

    def write(self, row: dict, steps: int) -> None:
        """One line everywhere."""
        if jax.process_index() == 0:
            self._line("log.jsonl", row)
            say(line(row, steps))

    def validated(self, row: dict, answers: list[dict], pictures: Sequence[np.ndarray] = ()) -> None:
        """A validation: its numbers, the answers as text, once the videos as pictures."""
        if jax.process_index() != 0:
            return
        self._line("validation.jsonl", row | ({"answers": answers} if answers else {}))
        say(
            f"validation after step {row['step']}: loss {row['validation_loss']:.4f} a label over "
            f"{row['validation_tokens']:,.0f} labels, {row['validation_seconds']:.3g} s"
        )
        for logger in self._loggers:
            for number, picture in enumerate(pictures):
                logger.picture(row["step"], f"answers/{number}/video", picture)
            for number, answer in enumerate(answers):
                text = f"**{answer['question']}** ({answer['video']})\n\n{answer['text']}"
                logger.text(row["step"], f"answers/{number}", text)

    def _line(self, name: str, row: dict) -> None:
        if name not in self._files:
            self._files[name] = (self._workdir / name).open("a", encoding="utf-8")
        self._files[name].write(json.dumps(row) + "\n")
        self._files[name].flush()
        numbers = {name: x for name, x in row.items() if isinstance(x, int | float) and name != "step"}
        for logger in self._loggers:
            logger.numbers(row["step"], numbers)

    def flush(self) -> None:
        """Before a checkpoint: what it goes on from is there."""
        if self._mirror is not None:
            self._mirror.flush()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_) -> None:
        for opened in (*self._files.values(), *self._loggers):
            opened.close()
        if self._mirror is not None:
            self._mirror.close()


def _truncate(path: Path, step: int) -> None:
    """Drops rows after `step` and a line that was cut off in the middle."""
    if not path.exists():
        return
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(text)
        except json.JSONDecodeError:
            continue
        if row["step"] <= step:
            kept.append(text + "\n")
    fresh = path.with_name(".log.jsonl.incomplete")
    fresh.write_text("".join(kept), encoding="utf-8")
    fresh.replace(path)


def line(row: dict, steps: int) -> str:
    """A row for people."""

    def number(name: str, form: str, without: str = "-") -> str:
        return without if row[name] is None else format(row[name], form)

    parts = [
        f"step {row['step']}/{steps}",
        f"loss {number('loss', '.4f', 'not finite')}",
        f"grad {number('gradient_norm', '.3g', 'not finite')}",
        f"lr {row['lr']:.3g}",
        f"{number('step_seconds', '.3g')} s/step",
        f"{number('tokens_per_second_per_chip', ',.0f')} tokens/s/chip",
        f"{number('frames_per_second', ',.1f')} frames/s",
        f"MFU {number('mfu', '.1%')}",
        f"data wait {number('data_wait', '.0%')}",
    ]
    padding = [f"{name[8:]} {share:.0%}" for name, share in row.items() if name.startswith("padding_")]
    if padding:
        parts.append(f"padding {', '.join(padding).replace('_', ' ')}")
    for name, what in (("skipped", "skipped steps"), ("samples_skipped", "skipped samples")):
        if row[name]:
            parts.append(f"{what} {row[name]}")
    return "  ".join([*parts, "ETA -" if row["eta_seconds"] is None else f"ETA {clock(row['eta_seconds'])}"])


def clock(seconds: float) -> str:
    """ "2:03:04", or "3 d 02:03:04" from a day on."""
    days, rest = divmod(round(seconds), 86_400)
    hours, minutes = divmod(rest // 60, 60)
    return f"{f'{days} d ' if days else ''}{hours:02d}:{minutes:02d}:{rest % 60:02d}"


def say(text: str) -> None:
    """A line of process 0 on stderr."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)
