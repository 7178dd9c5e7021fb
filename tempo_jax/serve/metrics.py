"""Prometheus metrics at /metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tempo_jax.runtime.compiling import COMPILE_COUNTER
from tempo_jax.serve.events import Completed, Event
from tempo_jax.serve.service import Service

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The metrics of one server; each has its own registry, so that a process can have several."""

    def __init__(self, service: Service):
        self.registry = CollectorRegistry()
        new = {"registry": self.registry}
        self.requests = Counter("tempo_requests", "HTTP requests answered.", ["path", "status"], **new)
        self.answers = Counter("tempo_answers", "Questions by outcome.", ["outcome"], **new)
        self.tokens = Counter("tempo_tokens", "Tokens by kind.", ["kind"], **new)
        self.seconds = Histogram(
            "tempo_stage_seconds", "Seconds of a stage.", ["stage"], buckets=SECONDS, **new
        )
        gauges = {
            "tempo_compiled_programs": ("Programs compiled since the start.", lambda: COMPILE_COUNTER.count),
            "tempo_compiling_seconds": ("Seconds of compilation.", lambda: COMPILE_COUNTER.seconds),
            "tempo_queue_waiting": ("Queued questions.", lambda: service.waiting),
            "tempo_queue_running": ("Running questions.", lambda: service.running),
            "tempo_open_videos": ("Cached videos.", lambda: len(service.store)),
            "tempo_open_bytes": (
                "Device memory of cached videos, in bytes.",
                lambda: service.store.held_bytes,
            ),
        }
        for name, (text, read) in gauges.items():
            Gauge(name, text, **new).set_function(read)
        service.observers.append(self.observe)

    def observe(self, event: Event) -> None:
        self.answers.labels("answered" if isinstance(event, Completed) else "failed").inc()
        if not isinstance(event, Completed):
            return
        for kind in ("prompt_tokens", "visual_tokens", "new_tokens"):
            self.tokens.labels(kind.removesuffix("_tokens")).inc(event.answer.usage[kind])
        for stage, seconds in event.answer.timings.items():
            self.seconds.labels(stage).observe(seconds)
        if not event.reused:
            self.seconds.labels("open").observe(event.open_seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)
