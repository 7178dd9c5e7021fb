"""Who has not finished which step, and why: said when a step takes long, the end of a run that hangs.

Each process notes what it is doing, a thread of process 0 looks at all of them: most hangs on a pod are one
host that waits for its data or its disk, and all others waiting for it inside a step.
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
UNLIMITED = (COMPILES, VALIDATES)  # may take as long as they take


class _Activity(NamedTuple):
    step: int
    what: str
    since: float


class Watchdog:
    """Watches this process, and from process 0 all of them, while it is entered.

    limits: config.watchdog, `say` and `stop` in seconds.
    """

    def __init__(self, limits: ConfigDict, processes: int = 1, process: int = 0):
        self._limits, self._all, self._process = limits, processes, process
        self._doing = _Activity(0, COMPILES, time.monotonic())
        self._ended = threading.Event()
        self._said: tuple[int, int] = (-1, 0)  # the step, and how often

    def __call__(self, step: int, what: str) -> None:
        """This process does `what` for `step` from now on."""
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
                found = peers.published("doing")
                mine = {"step": now.step, "what": now.what, "seconds": seconds}
                self._look({**found, 0: mine})

    def _look(self, found: dict[int, dict]) -> None:
        """Says who is behind when all have stood still for long; at last ends them."""
        seconds = min(doing["seconds"] for doing in found.values())  # none has moved for so long
        step = min(doing["step"] for doing in found.values())
        known, times = self._said
        times = times if known == step else 0
        if seconds < self._limits.say * 2**times:
            return
        self._said = step, times + 1
        text = f"{describe_stragglers(found, self._all)} step {step} for {seconds:.0f} s"
        if self._limits.stop and seconds >= self._limits.stop and not self._may_last(found):
            peers.give_up("train", TryAgain(f"{text}: run the same command again, or look at that host"))
        say(text)

    @staticmethod
    def _may_last(found: dict[int, dict]) -> bool:
        return any(doing["what"] in UNLIMITED for doing in found.values())


def describe_stragglers(found: dict[int, dict], processes: int) -> str:
    """ "process 3 (waits for its data) has not finished": those that keep the others waiting."""
    missing = [number for number in range(processes) if number not in found]
    if missing:
        return f"{_process_names(missing)} (not begun) {'has' if len(missing) == 1 else 'have'} not finished"
    step = min(doing["step"] for doing in found.values())
    late = {number: doing for number, doing in found.items() if doing["step"] == step}
    busy = {number: doing for number, doing in late.items() if doing["what"] != COMPUTES} or late
    whats = sorted({doing["what"] for doing in busy.values()})
    if processes == 1:
        return f"the run ({', '.join(whats)}) has not finished"
    have = "has" if len(busy) == 1 else "have"
    return f"{_process_names(sorted(busy))} ({', '.join(whats)}) {have} not finished"


def _process_names(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
    return f"process{'' if len(numbers) == 1 else 'es'} {shown}"
