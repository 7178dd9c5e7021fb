"""A run in its working directory: begun from a config, or taken up where its last checkpoint left it.

workdir/owner.json  config.json  log.jsonl  tensorboard/  frozen/  checkpoints/<step>/  model/ (at the end)
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tempo_jax import checkpoint, sharding
from tempo_jax.errors import TempoError
from tempo_jax.models import build
from tempo_jax.prompts import Tokenizer
from tempo_jax.runtime.placement import Placement
from tempo_jax.tasks import TASKS
from tempo_jax.training import checkpoints, groups, optimiser, peers, restore, start, step
from tempo_jax.training import config as configs
from tempo_jax.training.checkpoints import Checkpoints
from tempo_jax.training.feed import Layout
from tempo_jax.training.goodput import Goodput
from tempo_jax.training.metrics import optimiser_config, say
from tempo_jax.training.owner import Owner
from tempo_jax.utils import failures, folders, paths
from tempo_jax.utils.tree import nest

WRITTEN = ("frozen", "model", "checkpoints", "tokenizer")  # what a run replaces in its working directory


@dataclasses.dataclass
class Run:
    """Everything a loop needs; `state` changes."""

    config: ConfigDict
    workdir: Path
    mesh: jax.sharding.Mesh
    model: start.Architecture
    layout: Layout
    state: step.State
    frozen: start.Flat
    data: dict[int, Any] | None  # states of the data shards, where the run goes on
    run_step: Callable[..., tuple[step.State, step.Metrics]]
    restored: int | None = None  # the step that the run goes on after
    not_finite: int = 0  # steps in a row up to there
    checkpoints: Checkpoints | None = None  # where the run is owned
    owner: Owner | None = None  # on process 0
    goodput: Goodput = dataclasses.field(default_factory=Goodput)

    @property
    def tokenizer_folder(self) -> Path:
        return checkpoint.tokenizer_path(self.workdir / "frozen")

    def save(self, done: int, data: dict[int, Any], not_finite: int, loss: float | None = None) -> None:
        """Begins a checkpoint of the state after step `done`; data: the shards' states after it.

        not_finite: steps in a row. loss: of the validation after this step.
        """
        if self.owner is not None:
            self.owner.check()
        states = {shard: data[shard] for shard in self.layout.owned}
        info = {
            "config": configs.to_json(self.config),
            "code": checkpoints.code_version(),
            "not_finite": not_finite,
        }
        self.checkpoints.save(done, self.state, states, info, loss)

    def export(self) -> None:
        """Writes workdir/model, a native checkpoint for tempo_jax.load, convert.to_hf and the next stage."""
        origin = self.model.origin | {
            "step": int(self.state.step),
            "code": checkpoints.code_version(),
            "config": configs.to_json(self.config),
        }
        params = groups.join(self.state.learning, self.frozen)
        where, model = self.workdir / "model", self.model
        checkpoint.save(
            where, model.kind, model.config, params, self.tokenizer_folder, origin, overwrite=folders.FORCE
        )
        say(f"the model is in {where}")


@contextlib.contextmanager
def opened(config: ConfigDict, workdir: Path) -> Iterator[Run]:
    """The run of a working directory, owned and inside its mesh. TempoError for what a user can mend.

    Every process enters. At the end checkpoints are written out.
    """
    with _placed(config, workdir) as (workdir, mesh):
        workdir.mkdir(parents=True, exist_ok=True)
        with _owned(workdir) as owner:
            goodput = Goodput()
            with goodput.spending("restore"):
                run = (resume if restore.agreed_steps(workdir) else begin)(config, workdir, mesh)
            run.goodput = goodput
            with Checkpoints(workdir, config.checkpoints, config.commit) as saved:
                run.checkpoints, run.owner = saved, owner
                _introduce(run)
                yield run


@contextlib.contextmanager
def read_only(config: ConfigDict, workdir: Path) -> Iterator[Run]:
    """The same for who only reads the last whole checkpoint, of a run that may be under way."""
    with _placed(config, workdir) as (workdir, mesh):
        if not restore.agreed_steps(workdir):
            raise TempoError(f"{workdir} holds no checkpoint: train first")
        yield resume(config, workdir, mesh, owned=False)


@contextlib.contextmanager
def _placed(config: ConfigDict, workdir: Path) -> Iterator[tuple[Path, jax.sharding.Mesh]]:
    configs.check(config)
    if wrong := paths.check_scheme("the workdir", workdir):
        raise TempoError(wrong)
    peers.check_alike(
        {f"config.{name}": value for name, value in configs.leaves(configs.to_json(config)).items()}
        | {"--workdir": str(workdir), "the code": checkpoints.code_digest(), "jax": jax.__version__}
    )
    mesh = make_mesh(config)
    placed = Placement(mesh, exact=config.dtype == "float32")()
    with placed, failures.as_sentences(), full_memory_is_a_sentence():
        yield paths.absolute(paths.path("the workdir", workdir)), mesh


@contextlib.contextmanager
def _owned(workdir: Path) -> Iterator[Owner | None]:
    """Process 0 owns the folder; the others make sure that they see the same one."""
    if jax.process_index() == 0:
        with Owner(workdir) as owner, peers.at_end(lambda: owner.__exit__(None)):
            peers.exchange(owner.token)
            yield owner
        return
    peers.check_shared(workdir, peers.exchange()[0])
    yield None


def _introduce(run: Run) -> None:
    """What is about to happen, for people."""
    counts = [sum(x.size for x in flat.values()) for flat in (run.state.learning, run.frozen)]
    shape = " x ".join(f"{name} {size}" for name, size in run.mesh.shape.items())
    begun = f"going on after step {run.restored}" if run.restored is not None else "beginning"
    say(
        f"{run.workdir}: {begun}, {sum(counts):,} parameters of which {counts[0]:,} learn, on {shape} "
        f"({run.mesh.devices.flat[0].device_kind}); the first step takes long, since it is compiled"
    )
    for rows in run.layout.uneven:
        say(
            f"note: {rows} rows of a batch do not divide among the chips that share them, so some chips do "
            "the same work: choose batch.shards, pool and conversations to match"
        )


@contextlib.contextmanager
def full_memory_is_a_sentence() -> Iterator[None]:
    """A device's memory, that is."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0][:200]
        raise TempoError(
            f"training does not fit into the memory of the devices ({reason}): take smaller micro-batches "
            "(config.batch.pool, length), config.remat=full, or more devices for config.mesh.fsdp"
        ) from error


def make_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """The mesh of config.mesh over the devices of all processes; -1 takes what the other axes leave.

    A mesh that leaves devices out is said, or refused where another process would have none.
    """
    count = jax.device_count() if devices is None else len(devices)
    mesh = sharding.make_mesh(
        **sharding.fill_axis_sizes(dict(config.mesh), count, "config.mesh."), devices=devices
    )
    if note := sharding.unused_devices_note(mesh, count, "config.mesh."):
        if jax.process_count() > 1:
            raise TempoError(f"{note}, as it must with several processes")
        if devices is None:
            say(f"note: {note}")
    return mesh


def begin(config: ConfigDict, workdir: Path, mesh: jax.sharding.Mesh) -> Run:
    """A run before its first step."""
    for source in config.init.values():
        if source and (paths.remote(source) or Path(source).exists()):
            for name in WRITTEN:
                folders.check_apart(workdir / name, source)
    model = start.architecture(config)
    folder = start.tokenizer_folder(config, workdir)
    params = start.parameters(config, model.config, Tokenizer(folder), mesh)
    learning, frozen = groups.split(nest(params), dict(config.rates))
    checkpoints.save_frozen(workdir, model.kind, model.config, frozen, folder, model.origin)
    tx = optimiser.make(optimiser_config(config), learning)

    def first(learning: start.Flat) -> step.State:
        return step.initial({path: x.astype(jnp.float32) for path, x in learning.items()}, tx)

    where = state_shardings(jax.eval_shape(first, learning), mesh)
    del params
    state = jax.jit(first, out_shardings=where, donate_argnums=0)(learning)
    if jax.process_index() == 0:
        text = json.dumps(configs.to_json(config), indent=1)
        paths.write_text(workdir / "config.json", text + "\n")
    return _run(config, workdir, mesh, model, state, frozen, None, tx)


def resume(config: ConfigDict, workdir: Path, mesh: jax.sharding.Mesh, owned: bool = True) -> Run:
    """A run after its last whole checkpoint, on any mesh and number of processes."""
    folder = workdir / "frozen"
    checkpoints.check_frozen(folder)
    found = checkpoint.read_model_json(folder)
    model = start.Architecture(found.kind, found.config, found.origin)
    abstract, tx = abstract_state(config, found.config, mesh)
    last = restore.restore(config, workdir, abstract, Layout(config, mesh).shards, owned=owned)
    frozen = checkpoints.load_frozen(folder, mesh)
    run = _run(config, workdir, mesh, model, last.state, frozen, last.data, tx)
    return dataclasses.replace(run, restored=last.step, not_finite=int(last.info.get("not_finite", 0)))


def abstract_state(config: ConfigDict, model: Any, mesh) -> tuple[step.State, Any]:
    """Shapes and places of a state, and its optimiser; nothing is allocated."""
    learning, _ = groups.split(build.shapes(model), dict(config.rates))
    learning = {path: jax.ShapeDtypeStruct(x.shape, jnp.float32) for path, x in learning.items()}
    tx = optimiser.make(optimiser_config(config), learning)
    shapes = jax.eval_shape(functools.partial(step.initial, optimiser=tx), learning)

    def place(x, where):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return jax.tree.map(place, shapes, state_shardings(shapes, mesh)), tx


def state_shardings(shapes: step.State, mesh) -> step.State:
    """Where a state lives: moments lie with their parameter, counters everywhere."""

    def place(path, leaf):
        names = [key.key for key in path if getattr(key, "key", None) in shapes.learning]
        if names and shapes.learning[names[-1]].shape == leaf.shape:
            return sharding.param_sharding(names[-1], leaf.shape, mesh)
        return jax.NamedSharding(mesh, jax.P())

    return jax.tree_util.tree_map_with_path(place, shapes)


# What libtpu does not do by itself, by platform (docs/plans.md has what it is worth). VMEM that a fusion may
# take, KiB: its larger products lack room for better tiles. All-gathers of the next weights behind products.
# Asking, whose products are smaller, gains nothing by the first; the others were not tried there.
COMPILER_OPTIONS = {
    "tpu": {
        "xla_tpu_scoped_vmem_limit_kib": "65536",
        "xla_enable_async_all_gather": "true",
        "xla_tpu_enable_async_collective_fusion": "true",
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
        "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
        "xla_tpu_overlap_compute_collective_tc": "true",
    }
}


def jitted_step(config: ConfigDict, model: Any, tx: Any, state: step.State, mesh) -> Callable[..., Any]:
    """The compiled program of a step, the state donated; the planner compiles this very one.

    state: arrays or their shapes. model: its config.
    """
    task, dtype = TASKS[config.task], jnp.dtype(config.dtype)
    return jax.jit(
        step.make_step(model, tx, task=task, dtype=dtype, remat=config.remat, shards=config.batch.shards),
        donate_argnums=0,
        out_shardings=(state_shardings(state, mesh), jax.NamedSharding(mesh, jax.P())),
        compiler_options=COMPILER_OPTIONS.get(mesh.devices.flat[0].platform),
    )


def _run(config, workdir, mesh, model, state, frozen, data, tx) -> Run:
    run_step = jitted_step(config, model.config, tx, state, mesh)
    layout = Layout(config, mesh)
    return Run(config, workdir, mesh, model, layout, state, frozen, data, run_step)
