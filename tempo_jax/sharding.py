"""One mesh ("data", "fsdp", "tensor"), one table of parameters' logical axes, two sets of sharding rules.

Every parameter's axes have logical names (PARAMETERS). A `ShardingRules` says over which mesh axes each
logical axis is split. A mesh axis that does not divide a dimension is left out there, so that any model runs
on any mesh. Works for stacked trees (`layers/...` with a leading layer axis) and for trees with one node per
layer (`layers/<i>/...`) alike.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tempo_jax.errors import TempoError

AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """The mesh axes that each logical axis is split over; modules hold the rules that they compute under.

    Attributes:
      batch: Examples; for encoders, segments of video or clips.
      embed: Model width, also after 2x2 patch merging.
      heads: All heads of a projection, token-major.
      mlp: Hidden width of an MLP.
      vocab: Vocabulary.
      layers: The leading axis of stacked layers.
      none: Short or one-dimensional axes: replicated.
    """

    batch: tuple[str, ...]
    embed: tuple[str, ...]
    heads: tuple[str, ...]
    mlp: tuple[str, ...]
    vocab: tuple[str, ...]
    layers: tuple[str, ...] = ()
    none: tuple[str, ...] = ()


# Of the LLM, which processes whole videos.
DEFAULT_RULES = ShardingRules(
    batch=("data", "fsdp"), embed=("fsdp",), heads=("tensor",), mlp=("tensor",), vocab=("tensor",)
)
# Of encoders (vision towers, the compressor), which process independent segments or clips: these are split
# over all chips and heads are not, so that encoding needs no communication between chips.
ENCODER_RULES = dataclasses.replace(DEFAULT_RULES, batch=AXES, heads=(), mlp=(), vocab=())
ENCODER_PREFIXES = ("compressor/", "vision/")  # of the parameters that are sharded by ENCODER_RULES

# Path pattern -> logical axes without the layer axis; the first full match wins. Paths are relative to
# a component (`llm/`, `compressor/text/`, ...) and without layer indices.
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
_INDEX = re.compile(r"(?<=/)\d+/")  # of a layer in an unstacked tree
_STACKS = ("layers/", "blocks/", "deepstack/")


def make_mesh(
    data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Makes a mesh with Auto axes "data", "fsdp" and "tensor".

    Args:
      data: Number of model replicas.
      fsdp: Devices that each replica's weights are sharded over.
      tensor: Devices that attention heads and MLPs are split over.
      devices: All devices by default; if the mesh is smaller, its first ones. Several TPU slices are laid out
        along the data axis, so that only gradients cross the network between slices.

    Returns:
      A mesh of shape [data, fsdp, tensor].

    Raises:
      TempoError: There are fewer devices than data x fsdp x tensor.
    """
    shape, size = (data, fsdp, tensor), data * fsdp * tensor
    available = list(jax.devices() if devices is None else devices)
    if min(shape) < 1 or size > len(available):
        raise TempoError(
            f"a mesh of data={data} x fsdp={fsdp} x tensor={tensor} takes {size} devices and there are "
            f"{len(available)}: choose sizes whose product is at most that"
        )
    devices = available[:size]
    if devices[0].platform == "tpu":
        return Mesh(_tpu_device_mesh(shape, devices), AXES, axis_types=(AxisType.Auto,) * 3)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def fill_axis_sizes(sizes: Mapping[str, int], count: int, prefix: str = "") -> dict[str, int]:
    """Replaces a size of -1 by the number of devices that the other axes leave.

    Args:
      sizes: Size of each mesh axis; at most one is -1.
      count: Number of devices.
      prefix: Prefix of the axes' names in messages, such as "config.mesh.".

    Raises:
      TempoError: The other sizes do not divide the number of devices.
    """
    product = math.prod(size for size in sizes.values() if size != -1)
    if -1 not in sizes.values():
        return dict(sizes)
    if 0 < product <= count and count % product:
        axis = next(name for name, size in sizes.items() if size == -1)
        fixed = [f"{prefix}{name}={size}" for name, size in sizes.items() if size not in (-1, 1)]
        others = ", ".join(fixed)
        raise TempoError(
            f"{prefix}{axis}=-1 cannot take what {others} leaves of {count} devices, since {product} "
            f"does not divide {count}: choose a divisor of {count}, or give {prefix}{axis} a size to leave "
            "devices out"
        )
    remaining = max(count // max(product, 1), 1)
    return {name: remaining if size == -1 else size for name, size in sizes.items()}


def unused_devices_note(mesh: Mesh, count: int, prefix: str = "") -> str:
    """A note if a mesh leaves some of `count` devices unused, which may be unintended; else empty."""
    if mesh.size == count:
        return ""
    sizes = ", ".join(f"{prefix}{name}={size}" for name, size in mesh.shape.items())
    return f"{sizes} takes {mesh.size} of {count} devices; -1 for one axis takes the others as well"


def _tpu_device_mesh(shape: tuple[int, int, int], devices: list[jax.Device]) -> np.ndarray:
    """Devices by mesh axis, so that mesh neighbors are torus neighbors; a torus axis may be split in two.

    `jax.make_mesh` splits torus axes on v5e only, and takes a single slice. Each slice is one part of the
    data axis.
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
    """Returns a user's mesh with Auto axes (`jax.make_mesh` makes Explicit ones by default).

    Raises:
      TempoError: It is no mesh, or its axes are not "data", "fsdp" and "tensor".
    """
    if not isinstance(mesh, Mesh):
        raise TempoError(f"mesh is {mesh!r}: make one with tempo_jax.sharding.make_mesh")
    if mesh.axis_names != AXES:
        raise TempoError(
            f"the mesh has the axes {', '.join(mesh.axis_names)} where {', '.join(AXES)} are needed: make "
            "it with tempo_jax.sharding.make_mesh"
        )
    return Mesh(mesh.devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def logical_axes(path: str, ndim: int) -> tuple[str, ...]:
    """Returns the logical axis names of a native parameter, e.g. ("layers", "embed", "mlp").

    Raises:
      KeyError: No row of PARAMETERS matches the path, or the row that does has another rank.
    """
    _, axes = _parameter_rule(path)
    relative = _COMPONENT.sub("", path)
    if ndim == len(axes) + 1 and relative.startswith(_STACKS) and not _INDEX.search(relative):
        axes = ("layers", *axes)
    if ndim != len(axes):
        raise KeyError(f"{path} has {ndim} axes where sharding.PARAMETERS names {axes}")
    return axes


def _parameter_rule(path: str) -> tuple[str, tuple[str, ...]]:
    """The row of PARAMETERS that matches a path."""
    single = _INDEX.sub("", _COMPONENT.sub("", path))
    for pattern, axes in PARAMETERS:
        if re.fullmatch(pattern, single):
            return pattern, axes
    raise KeyError(f"no sharding for {path}: add a row to sharding.PARAMETERS")


def partition_spec(
    axes: Sequence[str], shape: Sequence[int], mesh: Mesh, rules: ShardingRules = DEFAULT_RULES
) -> P:
    """Returns the PartitionSpec of an array whose axes have these logical names.

    Mesh axes that do not divide a dimension are dropped there, the last ones first.
    """
    parts: list[Any] = []
    for name, size in zip(axes, shape, strict=True):
        mesh_axes = tuple(axis for axis in getattr(rules, name) if mesh.shape.get(axis, 1) > 1)
        while mesh_axes and size % math.prod(mesh.shape[axis] for axis in mesh_axes):
            mesh_axes = mesh_axes[:-1]
        parts.append(mesh_axes if len(mesh_axes) > 1 else mesh_axes[0] if mesh_axes else None)
    return P(*parts)


def shard_map_local(function: Callable, in_specs: Any, out_specs: Any) -> Callable:
    """Inside jit: maps `function` over every chip's shards, as kernels need it; on one chip, returns it.

    Args:
      function: A function of arrays.
      in_specs: PartitionSpecs of its arguments, or prefixes of their trees.
      out_specs: PartitionSpecs of its results, or prefixes of their trees.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def constrain(x: jax.Array, axis: str = "none", rules: ShardingRules = DEFAULT_RULES) -> jax.Array:
    """Inside jit: splits axis 0 of x as the logical `axis`, and no other; no-op without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    spec = partition_spec((axis, *("none",) * (x.ndim - 1)), x.shape, mesh, rules)
    return jax.lax.with_sharding_constraint(x, spec)


def param_sharding(path: str, shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a native parameter.

    Raises:
      KeyError: As `logical_axes`.
    """
    rules = ENCODER_RULES if path.startswith(ENCODER_PREFIXES) else DEFAULT_RULES
    return NamedSharding(mesh, partition_spec(logical_axes(path, len(shape)), shape, mesh, rules))


def tree_shardings(shapes: dict, mesh: Mesh, prefix: str = "") -> dict:
    """Returns the shardings of a nested dict of native parameters, given anything that has a `.shape`."""
    return {
        key: tree_shardings(value, mesh, f"{prefix}{key}/")
        if isinstance(value, dict)
        else param_sharding(f"{prefix}{key}", value.shape, mesh)
        for key, value in shapes.items()
    }
