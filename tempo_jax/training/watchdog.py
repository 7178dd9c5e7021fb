"""A watchdog that reports which processes hold up a step, and ends a run that hangs.

Each process publishes what it is doing, and a thread of process 0 compares them: most hangs on a pod are one
host that waits for its data or its disk, while all others wait for it inside a step.
"""

import threading
import time
from typing import NamedTuple

from ml_collections import ConfigDict

from tempo_jax.errors import TryAgain
from tempo_jax.training import peers
from tempo_jax.training.metrics import say

POLL_SECONDS = 2.0
COMPILES, COMPUTES, FEEDS, SAVES, VALIDATES = (
    "compiles its first step", "computes", "waits for its data", "saves", "validates",
)  # fmt: skip
UNLIMITED = (COMPILES, VALIDATES)  # activities of any duration


class _Activity(NamedTuple):
    step: int
    what: str
    since: float


class Watchdog:
    """Watches this process, and on process 0 all of them, while it is entered.

    Args:
      limits: `config.watchdog`: seconds without progress before a report (`say`) and before the end (`stop`).
      processes: Number of processes.
      process: Index of this one.
    """

    def __init__(self, limits: ConfigDict, processes: int = 1, process: int = 0):
        self._limits, self._all, self._process = limits, processes, process
        self._doing = _Activity(0, COMPILES, time.monotonic())
        self._ended = threading.Event()
        self._reported: tuple[int, int] = (-1, 0)  # the step, and the number of reports about it

    def __call__(self, step: int, what: str) -> None:
        """Records that this process does `what` for `step` from now on."""
        self._doing = _Activity(step, what, time.monotonic())

    def __enter__(self) -> "Watchdog":
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(min(POLL_SECONDS, self._limits.say / 4)):
            now = self._doing
            seconds = time.monotonic() - now.since
            peers.publish("doing", {"step": now.step, "what": now.what, "seconds": seconds})
            if self._process == 0:
                others = peers.published("doing")
                own = {"step": now.step, "what": now.what, "seconds": seconds}
                self._inspect({**others, 0: own})

    def _inspect(self, activities: dict[int, dict]) -> None:
        """Reports stragglers when no process has made progress for long; at last ends all of them."""
        seconds = min(doing["seconds"] for doing in activities.values())  # time without any progress
        step = min(doing["step"] for doing in activities.values())
        known, times = self._reported
        times = times if known == step else 0
        if seconds < self._limits.say * 2**times:
            return
        self._reported = step, times + 1
        text = f"{describe_stragglers(activities, self._all)} step {step} for {seconds:.0f} s"
        if self._limits.stop and seconds >= self._limits.stop and not self._is_unlimited(activities):
            peers.give_up("train", TryAgain(f"{text}: run the same command again, or look at that host"))
        say(text)

    @staticmethod
    def _is_unlimited(activities: dict[int, dict]) -> bool:
        return any(doing["what"] in UNLIMITED for doing in activities.values())


def describe_stragglers(activities: dict[int, dict], processes: int) -> str:
    """Names the processes that hold up the others: "process 3 (waits for its data) has not finished"."""
    missing = [number for number in range(processes) if number not in activities]
    if missing:
        has = "has" if len(missing) == 1 else "have"
        return f"{_process_names(missing)} (not started) {has} not finished"
    step = min(doing["step"] for doing in activities.values())
    late = {number: doing for number, doing in activities.items() if doing["step"] == step}
    busy = {number: doing for number, doing in late.items() if doing["what"] != COMPUTES} or late
    whats = sorted({doing["what"] for doing in busy.values()})
    if processes == 1:
        return f"the run ({', '.join(whats)}) has not finished"
    have = "has" if len(busy) == 1 else "have"
    return f"{_process_names(sorted(busy))} ({', '.join(whats)}) {have} not finished"


def _process_names(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
    return f"process{'' if len(numbers) == 1 else 'es'} {shown}"
