"""A run in its working directory: started from a config, or restored from its last checkpoint.

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
from tempo_jax.training import checkpoints, initialization, optimizer, param_groups, peers, restore, step
from tempo_jax.training import config as configs
from tempo_jax.training.checkpoints import CheckpointManager
from tempo_jax.training.device_prefetch import BatchSharding
from tempo_jax.training.goodput import Goodput
from tempo_jax.training.metrics import optimizer_config, say
from tempo_jax.training.owner import Owner
from tempo_jax.utils import failures, folders, paths
from tempo_jax.utils.tree import nest

WRITTEN = ("frozen", "model", "checkpoints", "tokenizer")  # what a run replaces in its working directory


@dataclasses.dataclass
class TrainRun:
    """Everything that the training loop needs; only `state` changes."""

    config: ConfigDict
    workdir: Path
    mesh: jax.sharding.Mesh
    model: initialization.Architecture
    layout: BatchSharding
    state: step.State
    frozen: initialization.Flat
    data: dict[int, Any] | None  # states of the data shards of a resumed run
    run_step: Callable[..., tuple[step.State, step.Metrics]]
    restored: int | None = None  # the step of the checkpoint that the run resumes from
    nonfinite_steps: int = 0  # length of the streak of non-finite steps before it
    checkpoints: CheckpointManager | None = None  # None where the run is only read
    owner: Owner | None = None  # on process 0
    goodput: Goodput = dataclasses.field(default_factory=Goodput)

    @property
    def tokenizer_folder(self) -> Path:
        return checkpoint.tokenizer_path(self.workdir / "frozen")

    def save(self, done: int, data: dict[int, Any], nonfinite_steps: int, loss: float | None = None) -> None:
        """Starts to write a checkpoint of the state after step `done`.

        Args:
          done: The step.
          data: States of the data shards after the step.
          nonfinite_steps: Length of the current streak of non-finite steps.
          loss: Validation loss after the step, if it was validated.
        """
        if self.owner is not None:
            self.owner.check()
        states = {shard: data[shard] for shard in self.layout.owned}
        info = {
            "config": configs.to_json(self.config),
            "code": checkpoints.code_version(),
            "not_finite": nonfinite_steps,  # its name in checkpoints
        }
        self.checkpoints.save(done, self.state, states, info, loss)

    def export(self) -> None:
        """Writes workdir/model, a native checkpoint for tempo_jax.load, convert.to_hf and the next stage."""
        origin = self.model.origin | {
            "step": int(self.state.step),
            "code": checkpoints.code_version(),
            "config": configs.to_json(self.config),
        }
        params = param_groups.merge(self.state.trainable, self.frozen)
        target, model = self.workdir / "model", self.model
        checkpoint.save(
            target, model.kind, model.config, params, self.tokenizer_folder, origin,
            overwrite=folders.FORCE, commit=self.config.commit,
        )  # fmt: skip
        say(f"The model is in {target}.")


@contextlib.contextmanager
def open_run(config: ConfigDict, workdir: Path) -> Iterator[TrainRun]:
    """Enters the run of a working directory, owning the folder and inside its mesh.

    Every process enters. Pending checkpoints are written at the end.

    Raises:
      TempoError: The config, the folder or the machine does not allow the run.
    """
    with _in_mesh(config, workdir) as (workdir, mesh):
        workdir.mkdir(parents=True, exist_ok=True)
        with _owned(workdir) as owner:
            goodput = Goodput()
            with goodput.spending("restore"):
                run = (restore_run if restore.agreed_steps(workdir) else init_run)(config, workdir, mesh)
            run.goodput = goodput
            with CheckpointManager(workdir, config.checkpoints, config.commit) as saved:
                run.checkpoints, run.owner = saved, owner
                _log_summary(run)
                yield run


@contextlib.contextmanager
def read_only(config: ConfigDict, workdir: Path) -> Iterator[TrainRun]:
    """Enters a run to read its last intact checkpoint; the run may be in progress elsewhere."""
    with _in_mesh(config, workdir) as (workdir, mesh):
        if not restore.agreed_steps(workdir):
            raise TempoError(f"{workdir} holds no checkpoint: train first")
        yield restore_run(config, workdir, mesh, owned=False)


@contextlib.contextmanager
def _in_mesh(config: ConfigDict, workdir: Path) -> Iterator[tuple[Path, jax.sharding.Mesh]]:
    configs.check(config)
    if wrong := paths.check_scheme("the workdir", workdir):
        raise TempoError(wrong)
    peers.check_alike(
        {f"config.{name}": value for name, value in configs.leaves(configs.to_json(config)).items()}
        | {"--workdir": str(workdir), "the code": checkpoints.code_digest(), "jax": jax.__version__}
    )
    mesh = make_mesh(config)
    placed = Placement(mesh, exact=config.dtype == "float32")()
    with placed, failures.report_system_errors(), report_oom():
        yield paths.absolute(paths.path("the workdir", workdir)), mesh


@contextlib.contextmanager
def _owned(workdir: Path) -> Iterator[Owner | None]:
    """Owns the folder on process 0; the other processes check that they see the same folder."""
    if jax.process_index() == 0:
        with Owner(workdir) as owner, peers.at_end(lambda: owner.__exit__(None)):
            peers.exchange(owner.token)
            yield owner
        return
    peers.check_shared(workdir, peers.exchange()[0])
    yield None


def _log_summary(run: TrainRun) -> None:
    """Logs what is about to be trained, and on what."""
    counts = [sum(x.size for x in flat.values()) for flat in (run.state.trainable, run.frozen)]
    mesh = " ".join(f"{name}={size}" for name, size in run.mesh.shape.items())
    start = "Starting run" if run.restored is None else f"Resuming from step {run.restored}"
    say(
        f"{start} in {run.workdir}: {sum(counts):,} parameters ({counts[0]:,} trainable), mesh {mesh} "
        f"({run.mesh.devices.flat[0].device_kind}). The first step includes compilation."
    )
    for rows in run.layout.undivided_rows:
        say(
            f"Warning: {rows} batch rows are not divisible by the devices that share them, so some devices "
            "do the same work: adjust config.batch.shards, batch.segments or batch.sequences."
        )


@contextlib.contextmanager
def report_oom() -> Iterator[None]:
    """Turns a device that runs out of memory into a TempoError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0][:200]
        raise TempoError(
            f"training does not fit into device memory ({reason}): use smaller micro-batches "
            "(config.batch.segments, sequence_length), config.remat=full, or more devices (config.mesh.fsdp)"
        ) from error


def make_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Makes the mesh of `config.mesh` over the devices of all processes.

    Args:
      config: A config with a section `mesh`; -1 there is replaced by what the other axes leave.
      devices: The devices to use; all where it is None.

    Returns:
      The mesh. One that leaves devices idle is logged.

    Raises:
      TempoError: The sizes do not fit the devices, or a process would have none.
    """
    count = jax.device_count() if devices is None else len(devices)
    mesh = sharding.make_mesh(
        **sharding.fill_axis_sizes(dict(config.mesh), count, "config.mesh."), devices=devices
    )
    if note := sharding.unused_devices_note(mesh, count, "config.mesh."):
        if jax.process_count() > 1:
            raise TempoError(f"{note}, as it must with several processes")
        if devices is None:
            say(f"Warning: {note}")
    return mesh


def init_run(config: ConfigDict, workdir: Path, mesh: jax.sharding.Mesh) -> TrainRun:
    """Initializes a run before its first step."""
    for source in config.init.values():
        if source and (paths.remote(source) or Path(source).exists()):
            for name in WRITTEN:
                folders.check_apart(workdir / name, source)
    model = initialization.architecture(config)
    folder = initialization.tokenizer_folder(config, workdir)
    params = initialization.parameters(config, model.config, Tokenizer(folder), mesh)
    trainable, frozen = param_groups.partition(nest(params), dict(config.learning_rate))
    checkpoints.save_frozen(
        workdir, model.kind, model.config, frozen, folder, model.origin, commit=config.commit
    )
    tx = optimizer.make_optimizer(optimizer_config(config), trainable)

    def first(trainable: initialization.Flat) -> step.State:
        return step.init_state({path: x.astype(jnp.float32) for path, x in trainable.items()}, tx)

    shardings = state_shardings(jax.eval_shape(first, trainable), mesh)
    del params
    state = jax.jit(first, out_shardings=shardings, donate_argnums=0)(trainable)
    if jax.process_index() == 0:
        text = json.dumps(configs.to_json(config), indent=1)
        paths.write_text(workdir / "config.json", text + "\n")
    return _make_run(config, workdir, mesh, model, state, frozen, None, tx)


def restore_run(config: ConfigDict, workdir: Path, mesh: jax.sharding.Mesh, owned: bool = True) -> TrainRun:
    """Restores a run from its last intact checkpoint, on any mesh and number of processes."""
    folder = workdir / "frozen"
    checkpoints.check_frozen(folder)
    found = checkpoint.read_model_json(folder)
    model = initialization.Architecture(found.kind, found.config, found.origin)
    abstract, tx = abstract_state(config, found.config, mesh)
    last = restore.restore(config, workdir, abstract, BatchSharding(config, mesh).shards, owned=owned)
    frozen = checkpoints.load_frozen(folder, mesh)
    run = _make_run(config, workdir, mesh, model, last.state, frozen, last.data, tx)
    return dataclasses.replace(run, restored=last.step, nonfinite_steps=int(last.info.get("not_finite", 0)))


def abstract_state(config: ConfigDict, model: Any, mesh) -> tuple[step.State, Any]:
    """Returns a state as shapes with shardings, and its optimizer; nothing is allocated."""
    trainable, _ = param_groups.partition(build.shapes(model), dict(config.learning_rate))
    trainable = {path: jax.ShapeDtypeStruct(x.shape, jnp.float32) for path, x in trainable.items()}
    tx = optimizer.make_optimizer(optimizer_config(config), trainable)
    shapes = jax.eval_shape(functools.partial(step.init_state, optimizer=tx), trainable)

    def place(x, placement):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement)

    return jax.tree.map(place, shapes, state_shardings(shapes, mesh)), tx


def state_shardings(shapes: step.State, mesh) -> step.State:
    """Returns the sharding of a state: moments as their parameter, counters replicated."""

    def place(path, leaf):
        names = [key.key for key in path if getattr(key, "key", None) in shapes.trainable]
        if names and shapes.trainable[names[-1]].shape == leaf.shape:
            return sharding.param_sharding(names[-1], leaf.shape, mesh)
        return jax.NamedSharding(mesh, jax.P())

    return jax.tree_util.tree_map_with_path(place, shapes)


# XLA options by platform (gains: docs/results/optimization-log.md). The first raises a fusion's VMEM (KiB)
# so that large matmuls get better tiles; the next overlap the all-gathers of the next weights with matmuls;
# the last (a size in MiB that nothing reaches) turns collective matmul off, which cuts each product into
# slices of few rows where weights are spread over 16 chips.
# Inference, whose matmuls are smaller, gains nothing from the first; the others were not tried there.
COMPILER_OPTIONS = {
    "tpu": {
        "xla_tpu_scoped_vmem_limit_kib": "65536",
        "xla_enable_async_all_gather": "true",
        "xla_tpu_enable_async_collective_fusion": "true",
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
        "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
        "xla_tpu_overlap_compute_collective_tc": "true",
        "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
    }
}


def jitted_step(config: ConfigDict, model: Any, tx: Any, state: step.State, mesh) -> Callable[..., Any]:
    """Returns the jitted train step, which donates the state; the planner compiles the same function.

    Args:
      config: The training config.
      model: The model's config.
      tx: The optimizer.
      state: Arrays of the state, or their shapes.
      mesh: The mesh of the run.
    """
    task, dtype = TASKS[config.task], jnp.dtype(config.dtype)
    return jax.jit(
        step.make_train_step(
            model, tx, task=task, dtype=dtype, remat=config.remat, shards=config.batch.shards
        ),
        donate_argnums=0,
        out_shardings=(state_shardings(state, mesh), jax.NamedSharding(mesh, jax.P())),
        compiler_options=COMPILER_OPTIONS.get(mesh.devices.flat[0].platform),
    )


def _make_run(config, workdir, mesh, model, state, frozen, data, tx) -> TrainRun:
    run_step = jitted_step(config, model.config, tx, state, mesh)
    layout = BatchSharding(config, mesh)
    return TrainRun(config, workdir, mesh, model, layout, state, frozen, data, run_step)
