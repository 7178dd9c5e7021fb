"""One mesh ("data", "fsdp", "tensor"), one table of logical axes, one table of rules.

Every parameter's axes have logical names (PARAMETERS); RULES says over which mesh axes a logical
axis is split. A mesh axis that does not divide a dimension is left out there, so that any model
runs on any mesh. Works for stacked trees (`layers/...` with a leading layer axis) and for trees with
one node per layer (`layers/<i>/...`) alike.
"""

import contextlib
import contextvars
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tempo_jax.errors import TempoError

AXES = ("data", "fsdp", "tensor")

# Logical axis -> mesh axes it is split over.
DEFAULT_RULES: dict[str, tuple[str, ...]] = {
    "embed": ("fsdp",),  # model width, also after 2x2 merging
    "heads": ("tensor",),  # all heads of a projection, side by side
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "segments": ("data", "fsdp"),  # segments or clips of a batch: every chip compresses some
    "layers": (),
    "none": (),  # short or one-dimensional: replicated
}

# The same for what reads segments or clips: it has them over all chips and is not split by heads, as the LLM
# is, which reads whole videos. So a chip sees and compresses its own segments without the others.
ENCODER_RULES: dict[str, tuple[str, ...]] = DEFAULT_RULES | {
    "segments": AXES,
    "heads": (),
    "mlp": (),
    "vocab": (),
}
ENCODER_PREFIXES = ("compressor/", "vision/")  # components that APART is for
_rules: contextvars.ContextVar[Mapping] = contextvars.ContextVar("rules", default=DEFAULT_RULES)

# Path pattern -> logical axes without the layer axis; the first full match wins. Paths are relative to
# a component (`llm/`, `compressor/text/`, ...), with layer indices taken out.
PARAMETERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"embed/embedding", ("vocab", "embed")),
    (r"head/kernel", ("embed", "vocab")),
    (r"(layers|blocks)/attention/(q|k|v|qkv)/kernel", ("embed", "heads")),
    (r"(layers|blocks)/attention/(o|proj)/kernel", ("heads", "embed")),
    (r"(layers|blocks)/attention/(q|k|v|qkv)/bias", ("heads",)),
    (r"blocks/attention/(q|v)_bias", ("heads",)),
    (r"layers/mlp/(gate|up)/kernel", ("embed", "mlp")),
    (r"layers/mlp/down/kernel", ("mlp", "embed")),
    (r"(blocks/mlp|merger|deepstack)/fc1/kernel", ("embed", "mlp")),
    (r"(blocks/mlp|merger|deepstack)/fc2/kernel", ("mlp", "embed")),
    (r"(blocks/mlp|merger|deepstack)/fc1/bias", ("mlp",)),
    (r"(blocks/mlp|merger|deepstack)/fc2/bias", ("none",)),
    (r"(blocks/attention/proj|patch_embed|projector/layers)/bias", ("none",)),
    (r"patch_embed/kernel", ("none", "embed")),
    (r"projector/layers/kernel", ("embed", "none")),
    (r"(position|memory)/embedding", ("none", "embed")),
    (r"relevance/direction", ("none",)),
    (r"(.*/)?\w*norm\d?/(scale|bias)", ("none",)),
)
_COMPONENT = re.compile(r"^(llm|compressor/text|compressor/vision|compressor|vision|text)/")
_INDEX = re.compile(r"(?<=/)\d+/")  # of a layer on its own
_STACKS = ("layers/", "blocks/", "deepstack/")


def make_mesh(
    data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of data x fsdp x tensor devices, Auto axes. Raises TempoError when there are too few.

    `devices`: all by default; with fewer wanted than there are, the first ones serve. Several TPU slices
    are told apart by the data axis, whose gradients alone then cross the slow network between them.
    """
    shape, want = (data, fsdp, tensor), data * fsdp * tensor
    have = list(jax.devices() if devices is None else devices)
    if min(shape) < 1 or want > len(have):
        raise TempoError(
            f"a mesh of data={data} x fsdp={fsdp} x tensor={tensor} takes {want} devices and there are "
            f"{len(have)}: choose sizes whose product is at most that"
        )
    used = have[:want]
    if used[0].platform == "tpu":
        return Mesh(_tpu_device_mesh(shape, used), AXES, axis_types=(AxisType.Auto,) * 3)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=used)


def _tpu_device_mesh(shape: tuple[int, int, int], devices: list[jax.Device]) -> np.ndarray:
    """Devices by mesh axis, neighbours side by side; a torus axis may serve two mesh axes.

    `jax.make_mesh` allows that on v5e alone, and takes one slice. Each slice is one part of the data axis.
    """
    data, fsdp, tensor = shape
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if data % slices:
        raise TempoError(
            f"the mesh's data={data} does not divide among {slices} slices: choose a multiple of {slices}"
        )
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    inner, outer = (data // slices, fsdp, tensor), (slices, 1, 1)
    return mesh_utils.create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)


def check_mesh(mesh: Mesh) -> Mesh:
    """A caller's mesh with Auto axes (`jax.make_mesh` makes Explicit ones, which our programs are not
    written for); TempoError unless its axes are data, fsdp and tensor."""
    if not isinstance(mesh, Mesh):
        raise TempoError(f"mesh is {mesh!r}: make one with tempo_jax.sharding.make_mesh")
    if mesh.axis_names != AXES:
        raise TempoError(
            f"the mesh has the axes {', '.join(mesh.axis_names)} where {', '.join(AXES)} are needed: make "
            "it with tempo_jax.sharding.make_mesh"
        )
    return Mesh(mesh.devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def logical_axes(path: str, ndim: int) -> tuple[str, ...]:
    """Logical axis names of a native parameter, e.g. ("layers", "embed", "mlp").

    Raises KeyError for a path the table does not know, or a rank that does not fit it.
    """
    _, axes = _parameter_rule(path)
    relative = _COMPONENT.sub("", path)
    if ndim == len(axes) + 1 and relative.startswith(_STACKS) and not _INDEX.search(relative):
        axes = ("layers", *axes)
    if ndim != len(axes):
        raise KeyError(f"{path} has {ndim} axes where sharding.PARAMETERS names {axes}")
    return axes


def _parameter_rule(path: str) -> tuple[str, tuple[str, ...]]:
    """The row of PARAMETERS that a path falls under."""
    single = _INDEX.sub("", _COMPONENT.sub("", path))
    for pattern, axes in PARAMETERS:
        if re.fullmatch(pattern, single):
            return pattern, axes
    raise KeyError(f"no sharding for {path}: add a row to sharding.PARAMETERS")


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """While a function is traced: APART holds in place of RULES."""
    token = _rules.set(ENCODER_RULES)
    try:
        yield
    finally:
        _rules.reset(token)


def partition_spec(axes: Sequence[str], shape: Sequence[int], mesh: Mesh) -> P:
    """Rules applied: mesh axes that do not divide a dimension are dropped there, the last first."""
    parts: list[Any] = []
    for name, size in zip(axes, shape, strict=True):
        wanted = tuple(a for a in _rules.get()[name] if mesh.shape.get(a, 1) > 1)
        while wanted and size % math.prod(mesh.shape[a] for a in wanted):
            wanted = wanted[:-1]
        parts.append(wanted if len(wanted) > 1 else wanted[0] if wanted else None)
    return P(*parts)


def shard_map_local(run: Callable, where_in: Any, where_out: Any) -> Callable:
    """Inside jit: `run` on every chip's own parts, as kernels need it; on one chip as it is.

    where: PartitionSpecs of the arguments and of the results, or prefixes of their trees.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return run
    return jax.shard_map(run, in_specs=where_in, out_specs=where_out, check_vma=False)


def constrain(x: jax.Array, axis: str = "none") -> jax.Array:
    """Inside jit: axis 0 of x is split as the logical `axis`, the others not at all; no-op without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(
        x, partition_spec((axis, *("none",) * (x.ndim - 1)), x.shape, mesh)
    )


def param_sharding(path: str, shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Where a native parameter lives; see `logical_axes` for KeyError."""
    axes = logical_axes(path, len(shape))
    with apart() if path.startswith(ENCODER_PREFIXES) else contextlib.nullcontext():
        return NamedSharding(mesh, partition_spec(axes, shape, mesh))


def tree_shardings(shapes: dict, mesh: Mesh, prefix: str = "") -> dict:
    """The same for a nested dict of anything with a `.shape`."""
    return {
        key: tree_shardings(value, mesh, f"{prefix}{key}/")
        if isinstance(value, dict)
        else param_sharding(f"{prefix}{key}", value.shape, mesh)
        for key, value in shapes.items()
    }
