"""What docs/plans.md has: configs, slices and meshes by the name of a row."""

from typing import NamedTuple


class Row(NamedTuple):
    config: str
    topology: str
    changes: tuple[str, ...] = ()
    slices: int = 1

    @property
    def command(self) -> str:
        slices = f" --slices={self.slices}" if self.slices > 1 else ""
        changes = "".join(f" --set {change}" for change in self.changes)
        return f"tempo plan --config=configs/{self.config}.py --topology={self.topology}{slices}{changes}"


_STAGES = {f"stage{n}": f"tempo_6b_stage{n}" for n in (3, 2, 1, 0)}
# 32 parts of the weights are whole tiles, 64 are not (search.whole_tiles). 256 chips take the 64 rows of a
# batch only with four of them to a row.
_WHOLE = ("mesh.data=2", "mesh.fsdp=32")
_SLICES = {
    "v5p-64": ("v5p:4x4x4", ()),
    "v6e-64": ("v6e:8x8", ()),
    "v5e-256": ("v5e:16x16", ("mesh.tensor=4",)),
}
_REMAT = {  # as much as fits below 90% of HBM and pays; "dots" elsewhere
    "stage3 v5p-64": "attention,attention,dots",
    "stage3 v6e-64": "attention,full,attention",
    "stage2 v6e-64": "attention,attention,dots",
    "stage3 v5e-256": "attention",
}
_TWO = Row(  # a step of twice the rows, each slice as before
    "tempo_6b_stage3", "v5p:4x4x4",
    ("mesh.data=4", "mesh.fsdp=32", "batch.shards=128", "remat=attention,attention,dots"), slices=2,
)  # fmt: skip
_ASK = {
    "v6e-1": ("v6e:1x1", ()),
    "v6e-4": ("v6e:2x2", ("mesh.fsdp=1", "mesh.tensor=4")),
    "v6e-16": ("v6e:4x4", ("mesh.data=2", "mesh.fsdp=1", "mesh.tensor=8")),  # there are 8 key/value heads
    "v6e-64": ("v6e:8x8", ("mesh.data=8", "mesh.fsdp=1", "mesh.tensor=8")),
    "v5e-8": ("v5e:2x4", ("mesh.fsdp=1", "mesh.tensor=8")),
    "v5p-4": ("v5p:2x2x1", ("mesh.fsdp=1", "mesh.tensor=4")),
}
_XCOMP = {
    "xcomp ask v6e-1": ("ask_xcomp", "v6e:1x1"),
    "xcomp ask v5e-4": ("ask_xcomp", "v5e:2x2"),
    "xcomp sct v5p-8": ("xcomp_2b_sct", "v5p:2x2x2"),
    "xcomp sct v6e-8": ("xcomp_2b_sct", "v6e:2x4"),
}
_FRAMES = (256, 512, 2048, 4096)
_BUDGETS = (1024, 2048, 4096, 16384)


def _step(stage: str, slice: str) -> Row:
    where, more = _SLICES[slice]
    remat = _REMAT.get(f"{stage} {slice}", "dots")
    return Row(_STAGES[stage], where, (*_WHOLE, f"remat={remat}", *more))


PLANS: dict[str, Row] = {
    **{f"ask {slice}": Row("ask_6b", *where) for slice, where in _ASK.items()},
    "ask int8 v5e-1": Row("ask_6b", "v5e:1x1", ("dtype=int8",)),
    **{f"{n} frames": Row("ask_6b", "v6e:1x1", (f"ask.frames={n}",)) for n in _FRAMES},
    **{f"{n} tokens": Row("ask_6b", "v6e:1x1", (f"ask.budget={n}",)) for n in _BUDGETS},
    **{f"{stage} {slice}": _step(stage, slice) for slice in _SLICES for stage in _STAGES},
    "stage3 2 x v5p-64": _TWO,
    **{name: Row(*where) for name, where in _XCOMP.items()},
}

# How an answer's time grows: what of -> its size -> the row. The first row has 1024 frames, 8192 tokens.
GROWTH: dict[str, dict[int, str]] = {
    "chips": {n: f"ask v6e-{n}" for n in (1, 4, 16, 64)},
    "frames": dict(sorted({n: f"{n} frames" for n in _FRAMES}.items() | {(1024, "ask v6e-1")})),
    "visual tokens": dict(sorted({n: f"{n} tokens" for n in _BUDGETS}.items() | {(8192, "ask v6e-1")})),
}
