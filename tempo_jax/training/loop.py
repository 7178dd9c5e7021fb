"""The training loop. Started again with the same command, a run goes on after its last checkpoint."""

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
from tempo_jax.training.feed import Fed, Feed
from tempo_jax.training.metrics import Log, Meter, say
from tempo_jax.training.run import Run, opened, read_only
from tempo_jax.training.validation import Validation
from tempo_jax.training.watchdog import Watchdog
from tempo_jax.utils import compilation_cache, paths

FINISHED, PREEMPTED = "finished", "preempted"


def train(config: ConfigDict, workdir: Path, make_batches: Callable[..., Any] | None = None) -> str:
    """Trains until config.steps and writes workdir/model; FINISHED, or PREEMPTED after SIGTERM.

    make_batches: makes the iterator of batches; tasks.Batches. TempoError for anything a user
    can mend. Every process of a distributed run calls it.
    """
    if make_batches is None:
        from tempo_jax.tasks import Batches as make_batches
    with opened(config, workdir) as run:
        outcome = _loop(run, make_batches) if run.state.step < config.steps else FINISHED
        with run.goodput.spending("save"):
            run.checkpoints.wait()
            if outcome == FINISHED:
                run.export()
        say(run.goodput.line())
    return outcome


def export(config: ConfigDict, workdir: Path) -> None:
    """Writes workdir/model from the last whole checkpoint, whatever its step; the run may be under way."""
    with read_only(config, workdir) as run:
        run.export()


def _loop(run: Run, make_batches: Callable[..., Any]) -> str:
    """Steps until the last one or SIGTERM, saving as it goes."""
    config, done = run.config, int(run.state.step)
    tokenizer = Tokenizer(run.tokenizer_folder)
    batches = make_batches(config, tokenizer, run.model.config, run.layout.shards)
    if run.data is not None:
        batches.set_state(run.data)
    with contextlib.ExitStack() as exits:
        log = exits.enter_context(Log(run.workdir, done, config.loggers, configs.to_json(config)))
        validation = Validation(run, make_batches) if config.validation.every else None
        feed = exits.enter_context(Feed(batches, run.layout))
        stopped = exits.enter_context(stop_requested())
        dog = exits.enter_context(Watchdog(config.watchdog, jax.process_count(), jax.process_index()))
        watch, saved = Watch(run, log, feed), run.restored
        due, working = False, watchdog.COMPILES
        run.goodput.loop()
        while done < config.steps:
            dog(done + 1, watchdog.FEEDS if working != watchdog.COMPILES else working)
            fed, waited = watch.next()
            done += 1
            dog(done, working)
            with profiled(run, done), watch.first_compiles():
                run.state, metrics = run.run_step(run.state, run.frozen, fed.device)
                watch.stepped(done, fed, metrics, waited)
            working = watchdog.COMPUTES
            stop, loss = stopped(done), None
            due |= stop or done % config.checkpoint_every == 0 or done == config.steps
            if validation is not None and done % config.validation.every == 0:
                watch.finish()
                dog(done, watchdog.VALIDATES)
                with run.goodput.spending("validation"):
                    loss = _validate(validation, log, done)
                watch.restart()
            if due:
                watch.finish()  # a loss that stops the run must not reach a checkpoint first
            if due and not watch.not_finite:  # inside a streak of them the save waits for its end
                dog(done, watchdog.SAVES)
                with run.goodput.spending("save"):
                    log.flush()
                    run.save(done, fed.states, watch.not_finite, loss)
                saved, due = done, False
            run.checkpoints.check()
            if stop:
                run.checkpoints.wait()
                say(f"stopped after step {done}, {_kept(done, saved)}: the same command goes on")
                return PREEMPTED
        watch.finish()
        if watch.not_finite:
            say(
                f"the last {watch.not_finite} steps were not finite and are not saved: the model has the "
                "weights from before them"
            )
    return FINISHED


def _validate(validation: Validation, log: Log, done: int) -> float:
    """The loss, after everything has been told."""
    numbers, answers = validation()
    log.validated({"step": done} | numbers, answers, validation.pictures())
    return numbers["validation_loss"]


def _kept(done: int, saved: int | None) -> str:
    if saved == done:
        return "which is saved"
    last = "there is no checkpoint" if saved is None else f"the last checkpoint is that of step {saved}"
    return f"which was not finite and is not saved; {last}"


class Watch:
    """Reads metrics one step late, so that the device never waits for them; stops at too many NaNs.

    not_finite: steps in a row that were not, up to the last one that is known.
    """

    def __init__(self, run: Run, log: Log, feed: Feed):
        self._run, self._log, self._feed = run, log, feed
        self._meter = Meter(run.config, run.model.config, run.mesh)
        self._pending: tuple[int, Fed, step.Metrics, float] | None = None
        self._skipped, self.not_finite = int(run.state.skipped), run.not_finite
        self._first = True
        self._told: set[str] = set()  # reasons to skip samples

    def next(self) -> tuple[Fed, float]:
        """The next batch, and for how many seconds the device had nothing to do before it came."""
        if self._feed.ready():
            return next(self._feed), 0.0
        self.finish()
        began = time.perf_counter()
        fed = next(self._feed)
        waited = time.perf_counter() - began
        self._run.goodput.add("input", waited)
        return fed, waited

    @contextlib.contextmanager
    def first_compiles(self) -> Iterator[None]:
        """Around every step: the first one, which compiles, is waited for."""
        if not self._first:
            yield
            return
        with self._run.goodput.spending("compile"):
            yield
            self.finish()

    def restart(self) -> None:
        """What has happened since the last step is none of the next one's time."""
        self._meter.skip()

    def stepped(self, number: int, fed: Fed, metrics: step.Metrics, waited: float) -> None:
        """A step has been handed to the device: now there is time for the one before."""
        self.finish()
        self._pending = number, fed, metrics, waited
        if all(
            x.is_ready() for x in jax.tree.leaves(metrics)
        ):  # where steps are done when they are handed over
            self.finish()

    def finish(self) -> None:
        """Waits for the step under way and tells of it; TempoError at too many that are not finite."""
        if self._pending is None:
            return
        (number, fed, metrics, waited), self._pending = self._pending, None
        found = jax.tree.map(lambda x: x.item(), jax.device_get(metrics))
        loss, norm, finite = found.loss, found.gradient_norm, found.finite
        config = self._run.config
        self.not_finite = 0 if finite else self.not_finite + 1
        self._skipped += not finite
        if self._first:
            self._meter.restart()  # the first step compiles
            if line := compilation_cache.counts.line():
                say(line)
        else:
            self._meter.count(fed.host, waited)
        self._first = False
        stats = self._feed.stats
        self._tell(stats["skipped"])
        if number % config.log_every == 0 or number == config.steps or not finite:
            row = self._meter.row(number, loss, norm, found.group_norms, self._skipped, stats)
            shares = self._run.goodput.shares()
            row |= {f"goodput_{kind}": share for kind, share in shares.items()} | self._of_hosts()
            self._log.write(row, config.steps)
        if self.not_finite >= config.max_not_finite:
            raise TempoError(
                f"loss or gradients of {self.not_finite} steps in a row, up to step {number}, were not "
                "finite and left the weights as they were: lower config.rates or look at the data"
            )

    def _of_hosts(self) -> dict:
        """What each process last told of its own speed, where there are several."""
        peers.publish("speed", self._meter.last)
        found = peers.published("speed")
        names = self._meter.last if found else ()
        processes = range(jax.process_count())
        return {f"hosts_{name}": [found.get(p, {}).get(name) for p in processes] for name in names}

    def _tell(self, reasons: Iterable[str]) -> None:
        """Says why samples are skipped, each reason once; log lines have their number only."""
        for reason in reasons:
            if reason not in self._told:
                self._told.add(reason)
                say(f"samples are skipped: {reason}")


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[int], bool]]:
    """Yields stopped(step): whether to save and stop after it, the same answer in every process."""
    if jax.process_count() > 1:  # jax.distributed listens to SIGTERM, and tells every process
        yield multihost_utils.reached_preemption_sync_point
        return
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield lambda step: asked.is_set()
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def profiled(run: Run, number: int) -> Iterator[None]:
    """Traces step config.profile_step into workdir/profile."""
    if number != run.config.profile_step:
        yield
        return
    jax.block_until_ready(run.state)
    with paths.staged(run.workdir / "profile") as place, jax.profiler.trace(str(place)):
        yield
        jax.block_until_ready(run.state)
