"""Tiny configurations compiled by libtpu for real topologies; skipped where libtpu is not installed."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tempo_jax import sharding
from tempo_jax.models import layers
from tempo_jax.models.kernels import decode_attention, qk_norm_rope, vision_attention
from tempo_jax.models.presets import TEMPO_6B
from tempo_jax.plan import abstract, compile, programs, search, topology
from tempo_jax.runtime import generate
from tempo_jax.training import run_state

pytestmark = pytest.mark.skipif(
    not topology.available(), reason='no libtpu, the TPU compiler: pip install -e ".[plan]"'
)

TOPOLOGIES = ("v5e:2x4", "v5p:2x2x2", "v6e:2x4")
# The demo's compressor has heads of 64, which splash attention takes; rows of its 128 and more.
TRAIN = (
    "dtype=bfloat16",
    "batch.shards=8",
    "batch.segments=4",
    "batch.sequences=1",
    "batch.compressor_length=128",
)
TRAIN += ("remat=full",)  # last
PEAK = 64 * 2**20  # bytes a chip: three float32 states of 3.5 M parameters over eight, and the batch


# Tests of one slice share a process, and with it the compilation (--dist loadgroup).
SLICES = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in TOPOLOGIES]


@pytest.fixture(scope="module", params=SLICES)
def planned(request):
    """The train step of tiny stage 3: its plan and its optimised HLO."""
    topology.prepare()
    texts = {}
    config = programs.read_config("configs/tiny_stage3.py", list(TRAIN))
    return compile.plan(config, topology.parse(request.param), texts.__setitem__), texts["train step"]


def test_the_train_step_fits_and_is_costed(planned):
    plan, text = planned
    (found,) = plan.reports
    assert plan.fits and plan.mesh["fsdp"] == 8
    assert 0 < found.memory.peak < PEAK
    assert found.memory.biggest[0].bytes <= found.memory.peak
    assert 0 < found.mfu < 1 and found.seconds >= found.roofline_seconds
    assert {c.kind for c in found.cost.collectives} >= {"all-gather"}, "parameters are spread over fsdp"
    assert found.cost.kernels == 3, "splash attention, forward, once more for the backward pass, backward"
    assert "splash" in text and "tpu_custom_call" in text


def test_no_chip_gathers_the_activations_of_all(planned):
    """What is gathered is parameters, never more than the largest of them: chips keep to their own rows."""
    plan, _ = planned
    (found,) = plan.reports
    largest = 1024 * 160 * 4  # the LLM's embedding, float32
    for one in found.cost.collectives:
        if one.kind == "all-gather":
            assert one.bytes / one.count <= largest, one.source


def test_rematerialisation_that_keeps_attention_runs_no_kernel_twice():
    config = programs.read_config("configs/tiny_stage3.py", [*TRAIN[:-1], "remat=attention"])
    (found,) = compile.plan(config, topology.parse("v5e:2x4")).reports
    assert found.cost.kernels == 2


@pytest.mark.parametrize("where", TOPOLOGIES)
def test_the_kernels_that_turn_heads_compile(where):
    """Full steps of 512 tokens and 8 heads: there with norm and rotation, back, and the gradients of both."""
    mesh = jax.sharding.Mesh(np.array(topology.devices(topology.parse(where))[:1]), ("fsdp",))
    norm = layers.RMSNorm(128, 1e-6)
    norm.scale = nnx.Param(jnp.ones(128, jnp.bfloat16))

    def run(x, angles):
        y = qk_norm_rope.to_head_major(x, norm=norm, angles_BLR=angles, scale=0.5)
        return jnp.sum(qk_norm_rope.from_head_major(jnp.sin(y)).astype(jnp.float32) ** 2)

    place = jax.NamedSharding(mesh, jax.P())
    args = (
        jax.ShapeDtypeStruct((1, 1024, 16 * 128), jnp.bfloat16, sharding=place),
        jax.ShapeDtypeStruct((1, 1024, 64), jnp.float32, sharding=place),
    )
    program = abstract.Program("", jax.jit(jax.grad(run)), args, {}, 1, 1, 1)
    chip = topology.parse(where).chip
    with jax.set_mesh(mesh):
        found = compile.compile_program(program, mesh, chip)
    assert found.oom is None and found.cost.kernels == 4
    once, table, sums = 2 * 1024 * 16 * 128, 4 * 1024 * 128, 4 * 128
    moved = (2 + 2 + 2 + 3) * once + 2 * table + 2 * 128 * 2 + sums
    assert found.cost.kernel_seconds == pytest.approx(
        moved / (chip.hbm_bandwidth * topology.COPY_BANDWIDTH_FRACTION)
        + 4 * chip.seconds(topology.LAUNCH_CYCLES),
        rel=1e-3,
    )


@pytest.mark.parametrize("where", TOPOLOGIES)
@pytest.mark.parametrize(("length", "learned"), [(364, True), (2048, True), (6272, False)])
def test_the_vision_towers_kernel_compiles(where, length, learned):
    """A frame, the longest rows whose gradient it has, XComp's clip; padding, rotation and biases inside."""
    mesh = jax.sharding.Mesh(np.array(topology.devices(topology.parse(where))[:1]), ("fsdp",))

    def run(qkv, bias, angles):
        return jnp.sum(vision_attention.attend(qkv, bias, 2, angles).astype(jnp.float32) ** 2)

    place = jax.NamedSharding(mesh, jax.P())
    args = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=place)
        for shape, dtype in (
            ((3, 2, length, 128), jnp.bfloat16),
            ((3, 128), jnp.bfloat16),
            ((length, 32), jnp.float32),
        )
    ]
    program = abstract.Program("", jax.jit(jax.grad(run) if learned else run), tuple(args), {}, 1, 1, 1)
    with jax.set_mesh(mesh):
        found = compile.compile_program(program, mesh, topology.parse(where).chip)
    assert found.oom is None and found.cost.kernels == 1 + learned
    padded = -(-length // 128) * 128
    work = (2 + 5 * learned) * 2 * 2 * padded**2 * 128
    chip = found.chip
    assert found.cost.kernel_seconds == pytest.approx(
        work / (chip.peak * chip.matmul_efficiency * topology.KERNEL_EFFICIENCY * 64 / chip.mxu_size)
        + (1 + learned) * chip.seconds(topology.LAUNCH_CYCLES)
    )


@pytest.mark.parametrize("where", TOPOLOGIES)
@pytest.mark.parametrize(("group", "slots"), [(4, 10304), (20, 1000)])
def test_the_kernel_of_one_token_compiles(where, group, slots):
    """Several blocks, the last beyond the cache, and one; norms and rotation inside."""
    mesh = jax.sharding.Mesh(np.array(topology.devices(topology.parse(where))[:1]), ("fsdp",))
    place = jax.NamedSharding(mesh, jax.P())
    norm = layers.RMSNorm(128, 1e-6)
    norm.scale = nnx.Param(jnp.ones(128, jnp.bfloat16))

    def run(projected, cache, position, angles):
        return decode_attention.attend(projected, cache, position, angles, norms=(norm, norm))

    def shape(*size, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(size, dtype, sharding=place)

    projected = tuple(shape(1, 1, 2 * count * 128) for count in (group, 1, 1))
    cache = (shape(1, 2, slots, 128),) * 2
    args = (projected, cache, shape(1, dtype=jnp.int32), shape(1, 1, 64, dtype=jnp.float32))
    chip = topology.parse(where).chip
    with jax.set_mesh(mesh):
        found = compile.compile_program(abstract.Program("", jax.jit(run), args, {}, 1, 1, 1), mesh, chip)
    assert found.oom is None and found.cost.kernels == 1
    read = 2 * (2 * 2 * slots * 128 + 2 * (group + 2) * 128 + 2 * 128) + 4 * 128 + 4
    expected = read / (chip.hbm_bandwidth * topology.CACHE_READ_BANDWIDTH_FRACTION) + chip.seconds(
        topology.LAUNCH_CYCLES
    )
    assert found.cost.kernel_seconds == pytest.approx(expected, rel=0.01)


def test_a_program_too_large_is_a_line():
    devices = topology.devices(topology.parse("v5e:2x4"))
    mesh = jax.sharding.Mesh(np.array(devices[:1]), ("fsdp",))
    whole = jax.ShapeDtypeStruct((2**34,), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P()))
    program = abstract.Program("sine", jax.jit(jnp.sin), (whole,), {}, 1.0, 1, 1)
    found = compile.compile_program(program, mesh, topology.CHIPS["v5e"])
    assert found.oom is not None and str(found.oom).startswith("does not fit: ")


def test_the_ceiling_of_a_chip_is_the_compilers_own():
    """FLOP per cycle of an 8192^3 matmul: the table says what this libtpu estimates."""
    chip, size = topology.CHIPS["v6e"], 8192
    devices = topology.devices(topology.parse("v6e:1x1"))
    mesh = jax.sharding.Mesh(np.array(devices), ("fsdp",))
    square = jax.ShapeDtypeStruct((size, size), jnp.bfloat16, sharding=jax.NamedSharding(mesh, jax.P()))
    product = abstract.Program("product", jax.jit(jnp.matmul), (square, square), {}, 2.0 * size**3, 1, 1)
    found = compile.compile_program(product, mesh, chip)
    assert found.mfu == pytest.approx(chip.matmul_efficiency, rel=0.02)
    assert found.bound == "compute"


def test_one_row_is_multiplied_in_the_matrix_unit():
    """Which it is not as it stands: the compiler itself says how much longer that takes."""
    devices, chip = topology.devices(topology.parse("v6e:1x1")), topology.CHIPS["v6e"]
    mesh = jax.sharding.Mesh(np.array(devices), ("fsdp",))

    def shape(*size):
        return jax.ShapeDtypeStruct(size, jnp.bfloat16, sharding=jax.NamedSharding(mesh, jax.P()))

    def seconds(function):
        args = (shape(1, 1, 2560), shape(2560, 9728))
        with jax.set_mesh(mesh):
            return compile.compile_program(
                abstract.Program("", jax.jit(function), args, {}, 1, 1, 1), mesh, chip
            ).seconds

    twice = seconds(lambda x, w: layers.matvec_as_matmul(lambda x: x @ w, x))
    assert 3 * twice < seconds(jnp.matmul)


@pytest.mark.parametrize("rows", [1, 8])
def test_a_step_of_decoding_leaves_caches_where_they_lie(rows):
    """No cache is turned around before the loop, copied or gathered in it: two layers of Tempo-6B's LLM."""
    where = topology.parse("v6e:2x2")
    mesh = sharding.make_mesh(1, 1, 4, topology.devices(where))
    config = dataclasses.replace(TEMPO_6B.llm, num_layers=2, vocab_size=1024)
    cache = jax.ShapeDtypeStruct((1, config.num_kv_heads, 10304, config.head_dim), jnp.bfloat16)
    number = jax.ShapeDtypeStruct((1,), jnp.int32)
    state = generate.DecodeState(
        tokens_BN=jax.ShapeDtypeStruct((1, 64), jnp.int32),
        count_B=number,
        length_B=number,
        done_B=jax.ShapeDtypeStruct((1,), jnp.bool_),
        cache=[(cache, cache)] * 2,
        sampling=jax.eval_shape(
            lambda: generate.SamplingParams(jnp.zeros(1), jnp.ones(1), jax.random.key(0)[None])
        ),
    )
    texts = {}
    with jax.set_mesh(mesh):
        llm = abstract.model(config, "bfloat16", mesh)
        step = abstract.decode_step(mesh, llm, state, 10240, 64, rows, greedy=True, eos=(1,))
        found = compile.compile_program(step, mesh, where.chip, texts.__setitem__)
    cache_shape = rf"bf16\[{rows},2,10304,128\]"
    assert re.search(cache_shape, texts["decode step"])
    assert not re.search(rf"{cache_shape}[^ ]* (copy|scatter)\(", texts["decode step"])
    large = [one for one in found.cost.collectives if one.bytes / one.count > 1024]
    assert {one.kind for one in large} == {"all-reduce"}, "the likeliest token of each row is gathered"
    assert found.cost.kernels == 2, "a layer's attention to one token is a kernel"
    assert all(one.bytes / one.count < 2**20 for one in found.cost.collectives)
    assert found.cost.dynamic_loops == 1 and found.cost.overhead_seconds < found.seconds


def test_a_step_is_compiled_with_the_options_of_its_platform(monkeypatch):
    """XLA knows no such option, and says so: it was asked."""
    monkeypatch.setitem(run_state.COMPILER_OPTIONS, "tpu", {"xla_no_such_option": "1"})
    config = programs.read_config("configs/tiny_stage3.py", list(TRAIN))
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        compile.plan(config, topology.parse("v5e:2x4"))


def test_a_search_compiles_side_by_side(monkeypatch):
    """Two at a time find what one plan does; of two slices weights are shared within each."""
    monkeypatch.setattr(search, "TENSOR", (1, 2))
    monkeypatch.setattr(search, "REMAT", ("full",))
    changes = ["dtype=bfloat16", "batch.shards=4", "batch.sequences=1", "batch.sequence_length=128"]
    config = programs.read_config("configs/demo_note.py", changes)
    where, lines = topology.parse("v5e:2x1", slices=2), []
    text, values = search.run(config, where, lines.append, jobs=2)
    best = values["trials"][0]
    assert best["plan"]["fits"] and best["changes"]["mesh.data"] in (2, 4)
    assert len(lines) > len(values["trials"]) >= 3 and text.startswith("v5e:2x1 x 2 slices: ")
    config.update_from_flattened_dict(best["changes"])
    assert compile.plan(config, where).seconds == pytest.approx(best["plan"]["seconds"])
