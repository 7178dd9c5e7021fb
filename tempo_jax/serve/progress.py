"""Progress as clients hear of it: stages by one name each, with the time that is left."""

import time

from tempo_jax.serve.events import Progress

# What systems call their stages -> what the API calls it, and what is counted.
STAGES = {
    "decoding": ("open", "chunks"),
    "encoding frames": ("open", "chunks"),
    "compressing": ("compress", "chunks"),
    "scoring frames": ("compress", "chunks"),
    "generating": ("answer", "tokens"),
}
LEAST_SECONDS = 0.2  # between two that are told


class Pace:
    """Of one job."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._began, self._first, self._told = 0.0, 0, 0.0

    def of(self, event: Progress) -> dict:
        """seconds_left: as the stage has gone so far; null at its beginning and where it may end early."""
        now = time.monotonic()
        if event.stage != self._stage or event.done < self._first:
            self._stage, self._began, self._first, self._told = event.stage, now, event.done, 0.0
        stage, unit = STAGES.get(event.stage, (event.stage, "steps"))
        gone, left = event.done - self._first, event.total - event.done
        seconds = (now - self._began) / gone * left if gone and stage != "answer" else None
        return {
            "stage": stage,
            "detail": event.stage,
            "done": event.done,
            "total": event.total,
            "unit": unit,
            "seconds_left": seconds,
        }

    def due(self, event: Progress) -> bool:
        """Whether it is to be told now: not too often, but always the first and last of a stage."""
        now = time.monotonic()
        if event.stage == self._stage and event.done < event.total and now - self._told < LEAST_SECONDS:
            return False
        self._told = now
        return True
