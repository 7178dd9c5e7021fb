"""Progress in the API: names of stages, counts and estimated seconds left."""

import time

from tempo_jax.serve.events import Progress

# Stage of a system -> stage of the API, unit of its counts.
STAGES = {
    "decoding": ("open", "chunks"),
    "encoding frames": ("open", "chunks"),
    "compressing": ("compress", "chunks"),
    "scoring frames": ("compress", "chunks"),
    "generating": ("answer", "tokens"),
}
MIN_REPORT_SECONDS = 0.2  # between two reports


class StageProgress:
    """Formats the progress of one job."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._began, self._first, self._reported_at = 0.0, 0, 0.0

    def of(self, event: Progress) -> dict:
        """A Progress of the API; seconds_left is null at a stage's start and during generation."""
        now = time.monotonic()
        if event.stage != self._stage or event.done < self._first:
            self._stage, self._began, self._first, self._reported_at = event.stage, now, event.done, 0.0
        stage, unit = STAGES.get(event.stage, (event.stage, "steps"))
        completed, remaining = event.done - self._first, event.total - event.done
        seconds = (now - self._began) / completed * remaining if completed and stage != "answer" else None
        return {
            "stage": stage,
            "detail": event.stage,
            "done": event.done,
            "total": event.total,
            "unit": unit,
            "seconds_left": seconds,
        }

    def due(self, event: Progress) -> bool:
        """Whether to report it: not too often, but always the first and last of a stage."""
        now = time.monotonic()
        if (
            event.stage == self._stage
            and event.done < event.total
            and now - self._reported_at < MIN_REPORT_SECONDS
        ):
            return False
        self._reported_at = now
        return True
