"""Tiny configurations compiled by libtpu for real topologies; skipped where libtpu is not installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tempo_jax import cli_plan
from tempo_jax.plan import chips, compile, programs, topology

pytestmark = pytest.mark.skipif(
    not topology.available(), reason='no libtpu, the TPU compiler: pip install "tempo_jax[plan]"'
)

TOPOLOGIES = ("v5e:2x4", "v5p:2x2x2", "v6e:2x4")
# The demo's compressor has heads of 64, which splash attention takes; rows of its 128 and more.
TRAIN = ("dtype=bfloat16", "batch.shards=8", "batch.pool=4", "batch.conversations=1", "batch.row_length=128")
TRAIN += ("remat=full",)  # last
PEAK = 64 * 2**20  # bytes a chip: three float32 states of 3.5 M parameters over eight, and the batch


@pytest.fixture(scope="module", params=TOPOLOGIES)
def planned(request):
    """The train step of tiny stage 3: its plan and its optimised HLO."""
    topology.prepare()
    texts = {}
    config = cli_plan.read_config("configs/tiny_stage3.py", list(TRAIN))
    return compile.plan(config, topology.parse(request.param), texts.__setitem__), texts["train step"]


def test_the_train_step_fits_and_is_costed(planned):
    plan, text = planned
    (found,) = plan.findings
    assert plan.fits and plan.mesh["fsdp"] == 8
    assert 0 < found.memory.peak < PEAK
    assert found.memory.biggest[0].bytes <= found.memory.peak
    assert 0 < found.mfu < 1 and found.seconds >= found.floor_seconds
    assert {c.kind for c in found.cost.collectives} >= {"all-gather"}, "parameters are spread over fsdp"
    assert found.cost.kernels == 3, "splash attention, forward, once more for the backward pass, backward"
    assert "splash" in text and "tpu_custom_call" in text


def test_no_chip_gathers_the_activations_of_all(planned):
    """What is gathered is parameters, never more than the largest of them: chips keep to their own rows."""
    plan, _ = planned
    (found,) = plan.findings
    largest = 1024 * 160 * 4  # the LLM's embedding, float32
    for one in found.cost.collectives:
        if one.kind == "all-gather":
            assert one.bytes / one.count <= largest, one.source


def test_rematerialisation_that_keeps_attention_runs_no_kernel_twice():
    config = cli_plan.read_config("configs/tiny_stage3.py", [*TRAIN[:-1], "remat=attention"])
    (found,) = compile.plan(config, topology.parse("v5e:2x4")).findings
    assert found.cost.kernels == 2


def test_a_program_too_large_is_a_line():
    devices = topology.devices(topology.parse("v5e:2x4"))
    mesh = jax.sharding.Mesh(np.array(devices[:1]), ("fsdp",))
    whole = jax.ShapeDtypeStruct((2**34,), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P()))
    program = programs.Program("sine", jax.jit(jnp.sin), (whole,), {}, 1.0, 1, 1)
    found = compile.find(program, mesh, chips.CHIPS["v5e"])
    assert found.refusal is not None and str(found.refusal).startswith("does not fit: ")


def test_the_ceiling_of_a_chip_is_the_compilers_own():
    """FLOP per cycle of an 8192^3 matmul: the table says what this libtpu estimates."""
    chip, size = chips.CHIPS["v6e"], 8192
    devices = topology.devices(topology.parse("v6e:1x1"))
    mesh = jax.sharding.Mesh(np.array(devices), ("fsdp",))
    square = jax.ShapeDtypeStruct((size, size), jnp.bfloat16, sharding=jax.NamedSharding(mesh, jax.P()))
    product = programs.Program("product", jax.jit(jnp.matmul), (square, square), {}, 2.0 * size**3, 1, 1)
    found = compile.find(product, mesh, chip)
    assert found.mfu == pytest.approx(chip.ceiling, rel=0.02)
    assert found.bound == "compute"
