"""The rows of docs/results/plans.md: what is compiled for which slice, as data."""

import dataclasses
from typing import Literal

from tempo_jax.plan import topology

# How Google names a slice: the prefix, and what it counts per chip (TensorCores on v4 and v5p).
GOOGLE_NAMES = {"v4": ("v4", 2), "v5e": ("v5litepod", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1)}


@dataclasses.dataclass(frozen=True)
class Row:
    """One plan of the page.

    Attributes:
      kind: Whether the row is a training step or the latency of an answer.
      system: Whose programs are compiled.
      workload: What is trained or answered, as the page prints it.
      config: Name of a file in configs/.
      topology: Slice in the form of `tempo plan --topology`.
      changes: Config overrides in the form of `tempo plan --set`.
      slices: Number of equal slices.
    """

    kind: Literal["train", "answer"]
    system: Literal["tempo", "xcomp"]
    workload: str
    config: str
    topology: str
    changes: tuple[str, ...] = ()
    slices: int = 1

    @property
    def name(self) -> str:
        """Key of the row in plans.json."""
        slices = f"{self.slices} x " if self.slices > 1 else ""
        return f"{self.system} {self.kind} {self.workload} {slices}{self.topology}"

    @property
    def slice_name(self) -> str:
        """The slice with chips, shape and Google's name: `v5p, 64 chips, 4x4x4, v5p-128`."""
        generation, shape = self.topology.split(":")
        chips = topology.parse(self.topology).chips
        prefix, per_chip = GOOGLE_NAMES[generation]
        slices = f"{self.slices} x " if self.slices > 1 else ""
        return f"{slices}{generation}, {chips} chip{'s' * (chips > 1)}, {shape}, {prefix}-{chips * per_chip}"

    @property
    def command(self) -> str:
        """The command that compiles the row."""
        slices = f" --slices={self.slices}" if self.slices > 1 else ""
        changes = "".join(f" --set {change}" for change in self.changes)
        return f"tempo plan --config=configs/{self.config}.py --topology={self.topology}{slices}{changes}"


ANSWER = "1024 frames"
# 32-way FSDP shards are tile-aligned, 64-way shards are not (plan.search). A batch of 64 rows occupies 256
# chips only with four of them per row.
_MESH = ("mesh.data=2", "mesh.fsdp=32")
_TRAINING_SLICES = {"v5p:4x4x4": (), "v6e:8x8": (), "v5e:16x16": ("mesh.tensor=4",)}
# As much saving of activations as fits below 90 % of HBM and pays; "dots" where nothing is named.
_REMAT = {
    (3, "v5p:4x4x4"): "attention,attention,dots",
    (3, "v6e:8x8"): "attention,full,attention",
    (2, "v6e:8x8"): "attention,attention,dots",
    (3, "v5e:16x16"): "attention",
}
_ANSWER_SLICES = {
    "v6e:1x1": (),
    "v6e:2x2": ("mesh.fsdp=1", "mesh.tensor=4"),
    "v6e:4x4": ("mesh.data=2", "mesh.fsdp=1", "mesh.tensor=8"),  # the LLM has 8 key/value heads
    "v6e:8x8": ("mesh.data=8", "mesh.fsdp=1", "mesh.tensor=8"),
    "v5e:2x4": ("mesh.fsdp=1", "mesh.tensor=8"),
    "v5p:2x2x1": ("mesh.fsdp=1", "mesh.tensor=4"),
}
_FRAMES = (256, 512, 2048, 4096)
_BUDGETS = (1024, 2048, 4096, 16384)


def _stage(stage: int, slice_topology: str) -> Row:
    remat = _REMAT.get((stage, slice_topology), "dots")
    changes = (*_MESH, f"remat={remat}", *_TRAINING_SLICES[slice_topology])
    return Row("train", "tempo", f"stage {stage}", f"tempo_6b_stage{stage}", slice_topology, changes)


def _frames(count: int) -> Row:
    return Row("answer", "tempo", f"{count} frames", "ask_6b", "v6e:1x1", (f"ask.frames={count}",))


def _budget(count: int) -> Row:
    return Row("answer", "tempo", f"{ANSWER}, budget {count}", "ask_6b", "v6e:1x1", (f"ask.budget={count}",))


def _plans() -> list[Row]:
    answers = [Row("answer", "tempo", ANSWER, "ask_6b", *item) for item in _ANSWER_SLICES.items()]
    answers += [Row("answer", "tempo", f"{ANSWER}, int8", "ask_6b", "v5e:1x1", ("dtype=int8",))]
    sweeps = [*map(_frames, _FRAMES), *map(_budget, _BUDGETS)]
    stages = [_stage(stage, slice_topology) for slice_topology in _TRAINING_SLICES for stage in (3, 2, 1, 0)]
    doubled = ("mesh.data=4", "mesh.fsdp=32", "batch.shards=128", "remat=attention,attention,dots")
    stages += [Row("train", "tempo", "stage 3", "tempo_6b_stage3", "v5p:4x4x4", doubled, slices=2)]
    xcomp = [Row("answer", "xcomp", ANSWER, "ask_xcomp", name) for name in ("v6e:1x1", "v5e:2x2")]
    xcomp += [Row("train", "xcomp", "tuning", "xcomp_2b_sct", name) for name in ("v5p:2x2x2", "v6e:2x4")]
    return [*answers, *sweeps, *stages, *xcomp]


PLANS: dict[str, Row] = {row.name: row for row in _plans()}


def _answer(slice_topology: str, workload: str = ANSWER) -> str:
    return f"tempo answer {workload} {slice_topology}"


# What latency is compared over: the quantity -> its size -> the row. By default 1024 frames, budget 8192.
SCALING: dict[str, dict[int, str]] = {
    "chips": {
        n: _answer(shape) for n, shape in ((1, "v6e:1x1"), (4, "v6e:2x2"), (16, "v6e:4x4"), (64, "v6e:8x8"))
    },
    "frames": {n: _answer("v6e:1x1", f"{n} frames") for n in sorted((*_FRAMES, 1024))},
    "visual tokens": {
        n: _answer("v6e:1x1", ANSWER if n == 8192 else f"{ANSWER}, budget {n}")
        for n in sorted((*_BUDGETS, 8192))
    },
}
