"""The training loop. Rerunning the same command resumes a run from its last checkpoint."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from tempo_jax.errors import TempoError
from tempo_jax.prompts import Tokenizer
from tempo_jax.training import config as configs
from tempo_jax.training import peers, step, watchdog
from tempo_jax.training.device_prefetch import DevicePrefetcher, PrefetchedBatch
from tempo_jax.training.metrics import MetricsLogger, ThroughputMeter, say
from tempo_jax.training.run_state import TrainRun, open_run, read_only
from tempo_jax.training.validation import Validation
from tempo_jax.training.watchdog import Watchdog
from tempo_jax.utils import compilation_cache, paths

FINISHED, PREEMPTED = "finished", "preempted"


def train(config: ConfigDict, workdir: Path, make_batches: Callable[..., Any] | None = None) -> str:
    """Trains until `config.steps` and writes workdir/model. Every process of a distributed run calls it.

    Args:
      config: A training config, see `training.config.default`.
      workdir: Folder of the run; a run that is there is resumed.
      make_batches: Makes the iterator of batches; `tasks.TrainLoader` where it is None.

    Returns:
      FINISHED, or PREEMPTED after SIGTERM.

    Raises:
      TempoError: The config, the data or the machine does not allow it; the message says what to do.
    """
    if make_batches is None:
        from tempo_jax.tasks import TrainLoader as make_batches
    with open_run(config, workdir) as run:
        outcome = _loop(run, make_batches) if run.state.step < config.steps else FINISHED
        with run.goodput.spending("save"):
            run.checkpoints.wait()
            if outcome == FINISHED:
                run.export()
        say(run.goodput.line())
    return outcome


def export(config: ConfigDict, workdir: Path) -> None:
    """Writes workdir/model from the last intact checkpoint of any step; the run may be in progress."""
    with read_only(config, workdir) as run:
        run.export()


def _loop(run: TrainRun, make_batches: Callable[..., Any]) -> str:
    """Runs steps and saves checkpoints until the last step or SIGTERM."""
    config, done = run.config, int(run.state.step)
    tokenizer = Tokenizer(run.tokenizer_folder)
    batches = make_batches(config, tokenizer, run.model.config, run.layout.shards)
    if run.data is not None:
        batches.set_state(run.data)
    with contextlib.ExitStack() as exits:
        log = exits.enter_context(MetricsLogger(run.workdir, done, config.loggers, configs.to_json(config)))
        validation = Validation(run, make_batches) if config.validation.every else None
        feed = exits.enter_context(DevicePrefetcher(batches, run.layout))
        stopped = exits.enter_context(preemption_guard())
        watcher = exits.enter_context(Watchdog(config.watchdog, jax.process_count(), jax.process_index()))
        monitor, saved = StepMonitor(run, log, feed), run.restored
        due, working = False, watchdog.COMPILES
        run.goodput.loop()
        while done < config.steps:
            watcher(done + 1, watchdog.FEEDS if working != watchdog.COMPILES else working)
            batch, input_stall_seconds = monitor.next_batch()
            done += 1
            watcher(done, working)
            with profiled(run, done), monitor.count_compilation():
                run.state, metrics = run.run_step(run.state, run.frozen, batch.device)
                monitor.record(done, batch, metrics, input_stall_seconds)
            working = watchdog.COMPUTES
            stop, loss = stopped(done), None
            due |= stop or done % config.checkpoint_every == 0 or done == config.steps
            if validation is not None and done % config.validation.every == 0:
                monitor.flush()
                watcher(done, watchdog.VALIDATES)
                with run.goodput.spending("validation"):
                    loss = _validate(validation, log, done)
                monitor.restart()
            if due:
                monitor.flush()  # a loss that stops the run must not reach a checkpoint first
            if due and not monitor.nonfinite_steps:  # within a streak of non-finite steps, saving waits
                watcher(done, watchdog.SAVES)
                with run.goodput.spending("save"):
                    log.flush()
                    run.save(done, batch.states, monitor.nonfinite_steps, loss)
                saved, due = done, False
            run.checkpoints.check()
            if stop:
                run.checkpoints.wait()
                say(f"Preempted: {_saved_state(done, saved)}. Rerun the same command to resume.")
                return PREEMPTED
        monitor.flush()
        if monitor.nonfinite_steps:
            say(
                f"The last {monitor.nonfinite_steps} steps were non-finite and are not saved: the model has "
                "the weights from before them."
            )
    return FINISHED


def _validate(validation: Validation, log: MetricsLogger, done: int) -> float:
    """Logs a validation and returns its loss."""
    numbers, answers = validation()
    log.validated({"step": done} | numbers, answers, validation.pictures())
    return numbers["validation_loss"]


def _saved_state(done: int, saved: int | None) -> str:
    """Says which checkpoint a preempted run has."""
    if saved == done:
        return f"checkpoint saved at step {done}"
    last = "there is no checkpoint" if saved is None else f"the last checkpoint is of step {saved}"
    return f"step {done} was non-finite and is not saved; {last}"


class StepMonitor:
    """Reads metrics one step late, so that the device never waits for them, and logs them.

    Attributes:
      nonfinite_steps: Length of the current streak of non-finite steps, as far as metrics have been read.
    """

    def __init__(self, run: TrainRun, log: MetricsLogger, feed: DevicePrefetcher):
        self._run, self._log, self._feed = run, log, feed
        self._meter = ThroughputMeter(run.config, run.model.config, run.mesh)
        self._pending: tuple[int, PrefetchedBatch, step.Metrics, float] | None = None
        self._skipped, self.nonfinite_steps = int(run.state.skipped), run.nonfinite_steps
        self._first = True
        self._reported: set[str] = set()  # reasons why samples are skipped

    def next_batch(self) -> tuple[PrefetchedBatch, float]:
        """Returns the next batch and the seconds for which the device was idle before it came."""
        if self._feed.ready():
            return next(self._feed), 0.0
        self.flush()
        began = time.perf_counter()
        batch = next(self._feed)
        input_stall_seconds = time.perf_counter() - began
        self._run.goodput.add("input", input_stall_seconds)
        return batch, input_stall_seconds

    @contextlib.contextmanager
    def count_compilation(self) -> Iterator[None]:
        """Wraps every step; the first one, which compiles, is waited for."""
        if not self._first:
            yield
            return
        with self._run.goodput.spending("compile"):
            yield
            self.flush()

    def restart(self) -> None:
        """Leaves the time since the last step out of the rates."""
        self._meter.skip()

    def record(
        self, number: int, batch: PrefetchedBatch, metrics: step.Metrics, input_stall_seconds: float
    ) -> None:
        """Takes note of a dispatched step and logs the one before it."""
        self.flush()
        self._pending = number, batch, metrics, input_stall_seconds
        if all(x.is_ready() for x in jax.tree.leaves(metrics)):  # backends that dispatch synchronously
            self.flush()

    def flush(self) -> None:
        """Waits for the step in progress and logs it; raises TempoError after too many non-finite steps."""
        if self._pending is None:
            return
        (number, batch, metrics, input_stall_seconds), self._pending = self._pending, None
        values = jax.tree.map(lambda x: x.item(), jax.device_get(metrics))
        loss, norm, is_finite = values.loss, values.gradient_norm, values.is_finite
        config = self._run.config
        self.nonfinite_steps = 0 if is_finite else self.nonfinite_steps + 1
        self._skipped += not is_finite
        if self._first:
            self._meter.restart()  # the first step compiles
            if line := compilation_cache.counts.line():
                say(line)
        else:
            self._meter.count(batch.host, input_stall_seconds)
        self._first = False
        stats = self._feed.stats
        self._report_skips(stats["skipped"])
        if number % config.log_every == 0 or number == config.steps or not is_finite:
            row = self._meter.row(number, loss, norm, values.group_norms, self._skipped, stats)
            shares = self._run.goodput.shares()
            row |= {f"goodput_{kind}": share for kind, share in shares.items()} | self._of_hosts()
            self._log.write(row, config.steps)
        if self.nonfinite_steps >= config.max_nonfinite_steps:
            raise TempoError(
                f"loss or gradients of {self.nonfinite_steps} steps in a row, up to step {number}, were "
                "non-finite and left the weights unchanged: lower config.learning_rate or check the data"
            )

    def _of_hosts(self) -> dict:
        """Collects the step and input times that each process last published."""
        peers.publish("speed", self._meter.last)
        speeds = peers.published("speed")
        names = self._meter.last if speeds else ()
        processes = range(jax.process_count())
        return {f"hosts_{name}": [speeds.get(p, {}).get(name) for p in processes] for name in names}

    def _report_skips(self, reasons: Iterable[str]) -> None:
        """Reports each reason for skipping samples once; log lines have only their number."""
        for reason in reasons:
            if reason not in self._reported:
                self._reported.add(reason)
                say(f"Skipping samples: {reason}")


@contextlib.contextmanager
def preemption_guard() -> Iterator[Callable[[int], bool]]:
    """Yields a function of the step that says, alike in every process, whether to save and stop after it."""
    if jax.process_count() > 1:  # jax.distributed listens to SIGTERM, and tells every process
        yield multihost_utils.reached_preemption_sync_point
        return
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: requested.set())
    try:
        yield lambda step: requested.is_set()
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def profiled(run: TrainRun, number: int) -> Iterator[None]:
    """Traces step config.profile_step into workdir/profile."""
    if number != run.config.profile_step:
        yield
        return
    jax.block_until_ready(run.state)
    with paths.staged(run.workdir / "profile") as place, jax.profiler.trace(str(place)):
        yield
        jax.block_until_ready(run.state)
