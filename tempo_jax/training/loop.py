"""The training loop: from a config to a trained model in a working directory.

    workdir/config.json  log.jsonl  tensorboard/  frozen/  checkpoints/<step>/  model/ (at the end)

Started again with the same command, a run goes on after its last whole checkpoint.
"""

import contextlib
import dataclasses
import functools
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from tempo_jax import checkpoint, sharding
from tempo_jax.errors import TempoError
from tempo_jax.inference.placement import Placement
from tempo_jax.prompts import Tokenizer
from tempo_jax.training import checkpoints, groups, optimiser, start, step
from tempo_jax.training import config as configs
from tempo_jax.training.feed import Fed, Feed, Layout
from tempo_jax.training.metrics import Log, Meter, optimiser_config, say
from tempo_jax.training.tasks import TASKS
from tempo_jax.trees import nest

FINISHED, PREEMPTED = "finished", "preempted"


@dataclasses.dataclass
class Run:
    """Everything a loop needs; `state` changes."""

    config: ConfigDict
    workdir: Path
    mesh: jax.sharding.Mesh
    model: start.Architecture
    tokenizer: Tokenizer
    checkpoints: checkpoints.Checkpoints
    layout: Layout
    state: step.State
    frozen: dict[str, jax.Array]
    data: dict[int, Any] | None  # states of the data shards, where the run goes on
    run_step: Callable[..., tuple[step.State, step.Metrics]]

    @property
    def step(self) -> int:
        return int(self.state.step)


def train(config: ConfigDict, workdir: Path, make_batches: Callable[..., Any] | None = None) -> str:
    """Trains until config.steps and writes workdir/model; FINISHED, or PREEMPTED after SIGTERM.

    make_batches: what makes the iterator of batches (data.pipeline.Batches). TempoError for anything a
    user can mend. Every process of a distributed run calls it.
    """
    configs.check(config)
    if make_batches is None:
        from tempo_jax.data.pipeline import Batches as make_batches
    workdir = Path(workdir).resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    mesh = make_mesh(config)
    saved = checkpoints.Checkpoints(workdir, config.keep)
    try:
        with Placement(mesh, exact=config.dtype == "float32")(), full_disk_is_a_sentence(workdir):
            run = resume(config, workdir, mesh, saved) if saved.latest is not None else begin(
                config, workdir, mesh, saved
            )  # fmt: skip
            outcome = _loop(run, make_batches)
            saved.wait()
            if outcome is FINISHED:
                export(run)
    finally:
        saved.close()
    return outcome


def make_mesh(config: ConfigDict) -> jax.sharding.Mesh:
    """The mesh of config.mesh over all devices of all processes; -1 takes what the others leave."""
    sizes = dict(config.mesh)
    left = max(jax.device_count() // math.prod(max(size, 1) for size in sizes.values()), 1)
    sizes = {name: left if size == -1 else size for name, size in sizes.items()}
    mesh = sharding.make_mesh(**sizes)
    if mesh.size < jax.device_count() and jax.process_count() > 1:
        raise TempoError(
            f"config.mesh takes {mesh.size} of {jax.device_count()} devices: with several processes it must "
            "take all (-1 for one axis does)"
        )
    return mesh


def begin(config: ConfigDict, workdir: Path, mesh, saved: checkpoints.Checkpoints) -> Run:
    """A run from its first step."""
    model = start.architecture(config)
    folder = start.tokenizer_folder(config, workdir)
    tokenizer = Tokenizer(folder)
    params = start.parameters(config, model.config, tokenizer, mesh)
    learning, frozen = groups.split(nest(params), dict(config.rates))
    del params
    learning = jax.jit(
        lambda flat: {path: x.astype(jnp.float32) for path, x in flat.items()}, donate_argnums=0
    )(learning)
    checkpoints.save_frozen(workdir, model.kind, model.config, frozen, folder, model.origin)
    tx = optimiser.make(optimiser_config(config), learning)
    where = state_shardings(jax.eval_shape(functools.partial(step.initial, optimiser=tx), learning), mesh)
    state = jax.jit(functools.partial(step.initial, optimiser=tx), out_shardings=where)(learning)
    if jax.process_index() == 0:
        text = json.dumps(configs.to_json(config), indent=1)
        (workdir / "config.json").write_text(text + "\n", encoding="utf-8")
    return _run(config, workdir, mesh, model, saved, state, frozen, None, tx)


def resume(config: ConfigDict, workdir: Path, mesh, saved: checkpoints.Checkpoints) -> Run:
    """A run that goes on after its last whole checkpoint, on any mesh and number of processes."""
    configs.check_same_run(saved.info()["config"], config, workdir)
    found = checkpoint.read_model_json(workdir / "frozen")
    model = start.Architecture(found.kind, found.config, found.origin)
    frozen = checkpoints.load_frozen(workdir, mesh)
    abstract, tx = abstract_state(config, found.config, mesh)
    layout = Layout(config, mesh)
    state, data = saved.load(abstract, layout.shards)
    say(f"going on after step {int(state.step)} of {workdir}")
    return _run(config, workdir, mesh, model, saved, state, frozen, data, tx)


def abstract_state(config: ConfigDict, model: Any, mesh) -> tuple[step.State, Any]:
    """Shapes and places of a state, and its optimiser; nothing is allocated."""
    from tempo_jax.models import build

    learning, _ = groups.split(build.shapes(model), dict(config.rates))
    learning = {path: jax.ShapeDtypeStruct(x.shape, jnp.float32) for path, x in learning.items()}
    tx = optimiser.make(optimiser_config(config), learning)
    shapes = jax.eval_shape(functools.partial(step.initial, optimiser=tx), learning)
    where = state_shardings(shapes, mesh)
    place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)  # noqa: E731
    return jax.tree.map(place, shapes, where), tx


def state_shardings(shapes: step.State, mesh) -> step.State:
    """Where a state lives: moments lie with their parameter, counters everywhere."""

    def place(path, leaf):
        keys = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        names = [key for key in keys if key in shapes.learning]
        if names and shapes.learning[names[-1]].shape == leaf.shape:
            return sharding.param_sharding(names[-1], leaf.shape, mesh)
        return jax.NamedSharding(mesh, jax.P())

    return jax.tree_util.tree_map_with_path(place, shapes)


def _run(config, workdir, mesh, model, saved, state, frozen, data, tx) -> Run:
    where = state_shardings(state, mesh)
    run_step = jax.jit(
        step.make_step(
            model.config, tx, task=TASKS[config.task], dtype=jnp.dtype(config.dtype), remat=config.remat
        ),
        donate_argnums=0,
        out_shardings=(where, jax.NamedSharding(mesh, jax.P())),
    )
    tokenizer = Tokenizer(checkpoint.tokenizer_path(workdir / "frozen"))
    layout = Layout(config, mesh)
    return Run(config, workdir, mesh, model, tokenizer, saved, layout, state, frozen, data, run_step)


def _loop(run: Run, make_batches: Callable[..., Any]) -> str:
    """Steps until the last one or SIGTERM, saving as it goes."""
    config, done = run.config, run.step
    if done >= config.steps:
        return FINISHED
    batches = make_batches(config, run.tokenizer, run.model.config, run.layout.shards)
    if run.data is not None:
        batches.set_state(run.data)
    feed, log = Feed(batches, run.layout), Log(run.workdir, done)
    watch = Watch(run, log, batches)
    try:
        with stop_requested() as stopped:
            while done < config.steps:
                fed, waited = watch.next(feed)
                done += 1
                with profiled(run, done):
                    run.state, metrics = run.run_step(run.state, run.frozen, fed.device)
                    watch.stepped(done, fed, metrics, waited)
                    del metrics
                stop = stopped(done)
                if stop or done % config.checkpoint_every == 0 or done == config.steps:
                    watch.finish()
                    save(run, done, fed)
                run.checkpoints.check()
                if stop:
                    run.checkpoints.wait()
                    return PREEMPTED
    finally:
        feed.close()
        log.close()
    return FINISHED


class Watch:
    """Reads metrics one step late, so that the device never waits for them; stops at too many NaNs."""

    def __init__(self, run: Run, log: Log, batches: Any):
        self._run, self._log, self._batches = run, log, batches
        self._meter = Meter(run.config, run.model.config)
        self._pending: tuple[int, Fed, step.Metrics, float] | None = None
        self._skipped, self._in_a_row = int(run.state.skipped), 0

    def next(self, feed: Feed) -> tuple[Fed, float]:
        """The next batch, and how long the device had nothing to do before it came."""
        if feed.ready():
            return next(feed), 0.0
        self.finish()
        began = time.perf_counter()
        return next(feed), time.perf_counter() - began

    def stepped(self, number: int, fed: Fed, metrics: step.Metrics, waited: float) -> None:
        self.finish()
        self._pending = (number, fed, metrics, waited)

    def finish(self) -> None:
        """Waits for the step under way and tells of it."""
        if self._pending is None:
            return
        (number, fed, metrics, waited), self._pending = self._pending, None
        loss, _, norm, finite = (x.item() for x in jax.device_get(metrics))
        self._in_a_row = 0 if finite else self._in_a_row + 1
        self._skipped += not finite
        self._meter.count(fed.host, waited)
        if number % self._run.config.log_every == 0 or number == self._run.config.steps or not finite:
            row = self._meter.row(number, {"loss": loss, "gradient_norm": norm}, self._skipped, {})
            self._log.write(row, self._run.config.steps)
        if self._in_a_row >= self._run.config.max_not_finite:
            raise TempoError(
                f"loss or gradients of {self._in_a_row} steps in a row, up to step {number}, were not "
                "finite: lower config.rates, or look at the data that came last; the last checkpoint is sound"
            )


def save(run: Run, done: int, fed: Fed) -> None:
    """Begins a checkpoint of the state after step `done`, which took batch `fed`."""
    states = {shard: fed.states[shard] for shard in run.layout.owned}
    info = {"config": configs.to_json(run.config), "code": checkpoints.code_version()}
    run.checkpoints.save(done, run.state, states, info)


def export(run: Run) -> None:
    """Writes workdir/model, a native checkpoint for tempo_jax.load, convert.to_hf and the next stage."""
    origin = run.model.origin | {
        "step": run.step,
        "code": checkpoints.code_version(),
        "config": configs.to_json(run.config),
    }
    checkpoint.save(
        run.workdir / "model", run.model.kind, run.model.config,
        groups.join(run.state.learning, run.frozen),
        checkpoint.tokenizer_path(run.workdir / "frozen"), origin, overwrite=True,
    )  # fmt: skip
    say(f"the model is in {run.workdir / 'model'}")


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[int], bool]]:
    """Yields stopped(step): whether to save and stop after it, the same answer in every process."""
    if jax.process_count() > 1:
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
    """Traces the step config.profile_step into workdir/profile."""
    if number != run.config.profile_step:
        yield
        return
    jax.block_until_ready(run.state)
    with jax.profiler.trace(str(run.workdir / "profile")):
        yield
        jax.block_until_ready(run.state)


@contextlib.contextmanager
def full_disk_is_a_sentence(workdir: Path) -> Iterator[None]:
    """The log and the exported model need space as well."""
    try:
        yield
    except TempoError:
        raise
    except Exception as error:
        if not checkpoints.is_full(error):
            raise
        raise TempoError(
            f"the disk of {workdir} is full: free some space and run the same command again"
        ) from error
