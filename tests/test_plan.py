"""The planner without libtpu: topologies, reading HLO, costs, refusals, shapes, and users' mistakes."""

import re
import types

import jax
import numpy as np
import pytest

from tempo_jax.errors import TempoError
from tempo_jax.plan import collectives, cost, hlo, memory, programs, topology
from tempo_jax.tasks import flops

HLO = """\
HloModule jit_step, is_scheduled=true

%product (p0: bf16[8,128], p1: bf16[128,64]) -> bf16[8,64] {
  %p0 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[128,64]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[8,64]{1,0} convolution(%p0, %p1), dim_labels=bf_io->bf
}

%add (p2: bf16[8,64]) -> bf16[8,64] {
  %p2 = bf16[8,64]{1,0} parameter(0)
  ROOT %sum = bf16[8,64]{1,0} add(%p2, %p2)
}

%dear (d: bf16[8,64]) -> bf16[8,64] {
  %d = bf16[8,64]{1,0} parameter(0)
  ROOT %fusion.9 = bf16[8,64]{1,0} fusion(%d), kind=kLoop, calls=%add, {CYCLES:700}
}

%cheap (c: bf16[8,64]) -> bf16[8,64] {
  ROOT %c = bf16[8,64]{1,0} parameter(0)
}

%condition (state: (s32[], bf16[8,64])) -> pred[] {
  %state = (s32[], bf16[8,64]{1,0}) parameter(0)
  %index = s32[]{:T(128)} get-tuple-element(%state), index=0
  %length = s32[]{:T(128)} constant(24)
  ROOT %less = pred[] compare(%index, %length), direction=LT
}

%body (state.1: (s32[], bf16[8,64])) -> (s32[], bf16[8,64]) {
  %state.1 = (s32[], /*index=1*/bf16[8,64]{1,0}) parameter(0)
  %x = bf16[8,64]{1,0} get-tuple-element(%state.1), index=1
  %gathered = bf16[128,64]{1,0} all-gather(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %fusion.1 = bf16[8,64]{1,0} fusion(%x, %gathered), kind=kOutput, calls=%product, {CYCLES:1000}
  %fusion.2 = bf16[8,64]{1,0} fusion(%fusion.1), kind=kLoop, calls=%add, {CYCLES:50}
  %one = s32[] constant(1)
  %next = s32[] add(%one, %one)
  ROOT %out = (s32[], bf16[8,64]{1,0}) tuple(%next, %fusion.2)
}

ENTRY %main (a: bf16[8,64], b: pred[]) -> bf16[8,64] {
  %a = bf16[8,64]{1,0} parameter(0)
  %b = pred[] parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], bf16[8,64]{1,0}) tuple(%zero, %a)
  %loop = (s32[], bf16[8,64]{1,0}) while(%start), condition=%condition, body=%body
  %y = bf16[8,64]{1,0} get-tuple-element(%loop), index=1
  %reduced = bf16[8,64]{1,0} all-reduce(%y), replica_groups={{0,2},{1,3}}, to_apply=%add
  ROOT %chosen = bf16[8,64]{1,0} conditional(%b, %reduced, %reduced), branch_computations={%cheap, %dear}
}
"""
HLO = re.sub(r"{CYCLES:(\d+)}", r'backend_config={"estimated_cycles":"\1","x":[]}', HLO)
V5E = topology.CHIPS["v5e"]


class Devices:
    """A 4 x 2 mesh of (fsdp, tensor) with places on a torus."""

    axis_names = ("fsdp", "tensor")
    devices = np.array([types.SimpleNamespace(coords=[i // 2, i % 2, 0]) for i in range(8)]).reshape(4, 2)


def test_what_a_sparse_core_runs_ends_where_it_ends():
    """Its computations close with a word more; the next one is a computation still."""
    offloaded = """\
%offloaded (p9: f32[24]) -> f32[24] {
  ROOT %p9 = f32[24]{0} parameter(0)
}, execution_thread="sparsecore"

"""
    module = hlo.parse(HLO.replace("%product (p0", offloaded + "%product (p0"))
    assert set(module.computations) == {"offloaded", *hlo.parse(HLO).computations}
    assert [x.name for x in module["offloaded"]] == ["p9"]


def test_loops_and_branches_are_counted_as_often_as_they_run():
    module = hlo.parse(HLO)
    (loop,) = [x for x in module[module.entry] if x.op == "while"]
    assert module.trips(loop) == 24
    found = cost.estimate_cost(module, Devices, V5E, label_fraction=0.25)
    assert found.matmul_seconds == pytest.approx(24 * 1000 / V5E.clock)
    assert found.other_seconds == pytest.approx((24 * 50 + 0.25 * 700) / V5E.clock)
    assert found.dynamic_loops == 0


def test_a_loop_whose_first_iteration_is_peeled_off_counts_from_one():
    """XLA does that to pipeline all-gathers: the counter starts at 1, and the condition stays."""
    peeled = HLO.replace("%zero = s32[] constant(0)", "%one = s32[] constant(1)\n  %zero = s32[] copy(%one)")
    found = cost.estimate_cost(hlo.parse(peeled), Devices, V5E)
    assert found.matmul_seconds == pytest.approx(23 * 1000 / V5E.clock)


def test_a_loop_of_unknown_length_is_counted_once_and_said():
    text = HLO.replace("s32[]{:T(128)} constant(24)", "s32[]{:T(128)} get-tuple-element(%state), index=0")
    found = cost.estimate_cost(hlo.parse(text), Devices, V5E)
    assert found.dynamic_loops == 1 and found.matmul_seconds == pytest.approx(1000 / V5E.clock)
    assert found.other_seconds == pytest.approx(50 / V5E.clock), "what stands outside is no part of a turn"
    assert found.overhead_seconds > 0


def test_an_instruction_may_have_line_breaks():
    """In what Pallas kernels say of themselves; what follows them is not lost."""
    broken = 'kind=kOutput, frontend_attributes={kernel_metadata={\n"block": 128\n}}, calls=%product'
    whole, cut = hlo.parse(HLO), hlo.parse(HLO.replace("kind=kOutput, calls=%product", broken))
    assert [x.name for x in cut["body"]] == [x.name for x in whole["body"]]
    assert (
        cost.estimate_cost(cut, Devices, V5E).matmul_seconds
        == cost.estimate_cost(whole, Devices, V5E).matmul_seconds
    )


def test_collectives_know_their_axes_bytes_and_time():
    gathered, reduced = cost.estimate_cost(hlo.parse(HLO), Devices, V5E).collectives
    # [2,4]<=[8]: devices 0..3 are two rows of the mesh, so both axes; half of both torus axes' rings.
    assert gathered.kind == "all-gather" and gathered.axes == ("fsdp", "tensor")
    assert gathered.bytes == 24 * 128 * 64 * 2 * 3 / 4
    hops = 24 * 2 * collectives.HOP_LATENCY_SECONDS
    assert gathered.seconds == pytest.approx(gathered.bytes / (2 * V5E.ici_bandwidth) + hops)
    # {0,2}: neighbours along fsdp.
    assert reduced.kind == "all-reduce" and reduced.axes == ("fsdp",)
    assert reduced.bytes == 2 * 8 * 64 * 2 / 2 and reduced.seconds == pytest.approx(
        reduced.bytes / V5E.ici_bandwidth + 2 * collectives.HOP_LATENCY_SECONDS
    )
    assert not gathered.asynchronous


MESH = "replica_groups=mesh['axis_0'=1,'axis_1'=4,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_1'}"
FUSED = f"""
%start (p.1: bf16[8,64]) -> (bf16[8,64], bf16[8,256]) {{
  %p.1 = bf16[8,64]{{1,0}} parameter(0)
  %gather.1 = bf16[8,256]{{1,0}} all-gather(%p.1), {MESH}, frontend_attributes={{chain_id="0"}}
  ROOT %s = (bf16[8,64], bf16[8,256]) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}}

%done (p.2: bf16[8,64]) -> bf16[8,256] {{
  %p.2 = bf16[8,64]{{1,0}} parameter(0)
  %gather.2 = bf16[8,256]{{1,0}} all-gather(%p.2), {MESH}, frontend_attributes={{chain_id="0"}}
  ROOT %d = bf16[8,256]{{1,0}} custom-call(%gather.2), custom_call_target="AsyncCollectiveDone"
}}

%all-reduce-scatter.1 (p.3: bf16[8,256]) -> bf16[8,64] {{
  %p.3 = bf16[8,256]{{1,0}} parameter(0)
  %all-reduce.1 = bf16[8,256]{{1,0}} all-reduce(%p.3), replica_groups={{{{0,1,2,3}},{{4,5,6,7}}}}
  ROOT %own = bf16[8,64]{{1,0}} dynamic-slice(%all-reduce.1, %zero, %id), dynamic_slice_sizes={{8,64}}
}}

%sparse (p.4: bf16[8,64]) -> bf16[8,256] {{
  %p.4 = bf16[8,64]{{1,0}} parameter(0)
  ROOT %gather.3 = bf16[8,256]{{1,0}} all-gather(%p.4), {MESH}
}}, execution_thread="sparsecore"

ENTRY %main (a: bf16[8,64]) -> bf16[8,64] {{
  %a = bf16[8,64]{{1,0}} parameter(0)
  %f.1 = (bf16[8,64], bf16[8,256]) fusion(%a), kind=kCustom, calls=%start
  %f.2 = bf16[8,256]{{1,0}} fusion(%f.1), kind=kCustom, calls=%done
  %c = ((bf16[8,64]), bf16[8,256]) call-start(%a), async_execution_thread="sparsecore", to_apply=%sparse
  ROOT %f.3 = bf16[8,64]{{1,0}} fusion(%f.2), kind=kCustom, calls=%all-reduce-scatter.1
}}
"""


def test_collectives_in_fusions_and_on_sparsecores_are_counted_once():
    """As libtpu 0.0.42 prints them: an all-gather started in one fusion and ended in another; one that
    SparseCores run; and a sum of which each chip keeps its part, which nothing hides."""
    fused, sparse, scattered = cost.estimate_cost(hlo.parse(FUSED), Devices, V5E).collectives
    for gathered in (fused, sparse):
        assert gathered.kind == "all-gather" and gathered.asynchronous
        assert gathered.axes == ("fsdp", "tensor"), "the first four devices"
        assert gathered.bytes == 8 * 256 * 2 * 3 / 4
    assert scattered.kind == "reduce-scatter" and not scattered.asynchronous
    assert scattered.axes == ("fsdp", "tensor") and scattered.bytes == 8 * 256 * 2 * 3 / 4


def test_slices_talk_through_their_hosts():
    """XLA writes an all-reduce between slices as a send and a recv; it is counted once, over data."""
    said = (
        "channel_id=2, is_host_transfer=true, frontend_attributes="
        '{_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    text = f"""ENTRY %main (a: f32[256,512]) -> f32[256,512] {{
  %s = (f32[256,512]{{1,0}}, u32[], token[]) send(%a, %t), {said}
  %r = (f32[256,512]{{1,0}}, u32[], token[]) recv(%t), {said}
}}"""

    class Slices:
        axis_names = ("data", "fsdp")
        devices = np.array(
            [types.SimpleNamespace(coords=[i % 4, 0, 0], slice_index=i // 4) for i in range(8)]
        ).reshape(2, 4)

    (sent,) = cost.estimate_cost(hlo.parse(text), Slices, V5E).collectives
    assert sent.kind == "all-reduce" and sent.axes == ("data",) and sent.asynchronous
    assert sent.bytes == 256 * 512 * 4
    assert sent.seconds == pytest.approx(sent.bytes / V5E.dcn_bandwidth, rel=2e-2)


OFFLOADED = """\
%write (p: bf16[4,8,64], u: bf16[1,8,64]) -> bf16[4,8,64] {
  ROOT %d = bf16[4,8,64]{2,1,0:T(8,128)S(5)} dynamic-update-slice(%p, %u)
}

%read (p: bf16[4,8,64]) -> bf16[1,8,64] {
  ROOT %e = bf16[1,8,64]{2,1,0} dynamic-slice(%p)
}

ENTRY %main (a: bf16[1,8,64]) -> bf16[1,8,64] {
  %h = bf16[4,8,64]{2,1,0:T(8,128)S(5)} custom-call(), custom_call_target="AllocateBuffer"
  %s = ((bf16[4,8,64]{2,1,0:T(8,128)S(5)}, bf16[1,8,64]{2,1,0}, s32[]), bf16[4,8,64]{2,1,0:T(8,128)S(5)}, \
u32[]{:S(2)}) async-start(%h, %a), calls=%write
  %w = bf16[4,8,64]{2,1,0:T(8,128)S(5)} async-done(%s)
  %r = ((bf16[4,8,64]{2,1,0:T(8,128)S(5)}, s32[]), bf16[1,8,64]{2,1,0}, u32[]{:S(2)}) \
async-start(%w), calls=%read
  ROOT %x = bf16[1,8,64]{2,1,0} async-done(%r)
}
"""


def test_what_is_offloaded_crosses_to_the_host_and_back():
    """Of an array of four layers on the host, a layer is written and one is read."""
    written, read = cost.estimate_cost(hlo.parse(OFFLOADED), Devices, V5E).collectives
    for transfer in (written, read):
        assert transfer.kind == "host transfer" and transfer.axes == () and transfer.asynchronous
        assert transfer.bytes == 8 * 64 * 2
        assert transfer.seconds == pytest.approx(transfer.bytes / V5E.host_bandwidth)


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", [0, 4]),
        ("replica_groups={{1,3},{0,2}}", [1, 3]),
        ("source_target_pairs={{3,2},{2,1}}", [2, 3]),
        ("no groups", list(range(8))),
    ],
)
def test_groups_in_all_their_notations(text, group):
    assert collectives._group(text, 8) == group


def test_every_chip_is_whole():
    for name, chip in topology.CHIPS.items():
        assert 0.6 < chip.matmul_efficiency <= 1, name
        assert chip.peak in flops.PEAK.values(), f"{name} and tasks.flops disagree"
        shape = "x".join(["2"] * chip.torus_dims)
        assert topology.parse(f"{name}:{shape}").devices == 2**chip.torus_dims * chip.per_chip


@pytest.mark.parametrize(
    ("text", "message"), [("v9:2x2", "is no topology"), ("v5p:4x4", "2 axes"), ("v5e", "no topology")]
)
def test_topologies_that_do_not_exist(text, message):
    with pytest.raises(TempoError, match=message):
        topology.parse(text)


def test_without_libtpu_a_sentence_says_what_to_install(monkeypatch, capsys):
    from tempo_jax import cli

    monkeypatch.setattr(topology, "available", lambda: False)
    status = cli.main(["plan", "--config=configs/ask_6b.py:tiny", "--topology=v5e:2x4"])
    assert status == 2
    assert capsys.readouterr().err.strip() == f"tempo: {topology.MISSING}"


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ("configs/none.py", [], "no config file configs/none.py"),
        ("configs/ask_6b.py", ["mesh.tenor=2"], "no field mesh.tenor"),
        ("configs/ask_6b.py", ["mesh.tensor"], "give FIELD=VALUE"),
        ("configs/ask_6b.py", ["mesh.tensor=wide"], "does not fit config.mesh.tensor"),
    ],
)
def test_mistakes_in_the_config_are_sentences(config, changes, message):
    with pytest.raises(TempoError, match=message):
        programs.read_config(config, changes)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
            "Used 45.01G of 31.25G hbm. Exceeded hbm capacity by 13.77G.\n"
            " 1. Size: 8.00G\n  Shape: bf16[32,4096]{1,0}\n",
            "does not fit: 45.01G of 31.25G of HBM; biggest: 8.00G bf16[32,4096]",
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
            "(768.00G) exceeds available HBM (15.75G).",
            "does not fit: 768.00G of 15.75G of HBM",
        ),
    ],
)
def test_a_refusal_is_a_readable_line(error, said):
    assert str(memory.parse_out_of_memory(RuntimeError(error))) == said
    assert memory.parse_out_of_memory(RuntimeError("INVALID_ARGUMENT: hbm")) is None


def test_the_programs_of_an_hour_are_those_of_the_engine():
    """They trace on a mesh of CPUs; their number is what 1024 frames take."""
    config = programs.read_config("configs/ask_6b.py:tiny", ["ask.chunk_segments=2", "mesh.tensor=2"])
    mesh, found = programs.make_programs(config, jax.devices())
    with jax.set_mesh(mesh):
        traced = {program.name: program for program in found}
        text = traced["compressor question"].lower().as_text()
    assert list(traced) == [
        "vision chunk",
        "compressor prefix",
        "compressor question",
        "prefill",
        "decode step",
    ]
    assert traced["vision chunk"].runs == 8, "128 segments, 2 on each of 8 chips"
    assert "tf.aliasing_output" in text or "jax.buffer_donor" in text, "the bank is donated"
    assert all(program.flops > 0 for program in traced.values())
    visual, written = traced["vision chunk"], traced["decode step"]
    whole = sum(map(memory.shard_bytes, jax.tree.leaves(traced["prefill"].args[0])))
    assert traced["prefill"].resident_bytes == 0
    assert 0 < visual.resident_bytes < whole and 0 < written.resident_bytes < whole
    seeing = sum(map(memory.shard_bytes, jax.tree.leaves(visual.args[0])))
    assert visual.resident_bytes == whole - seeing, "the LLM's weights stay where they are meanwhile"


def test_weights_of_other_programs_take_room_too():
    """What compiles alone is refused where the engine holds more beside it than is left."""
    assert memory.check_capacity(10 * topology.GIB, 5 * topology.GIB, 15.75 * topology.GIB) is None
    refused = memory.check_capacity(11 * topology.GIB, 5 * topology.GIB, 15.75 * topology.GIB)
    assert str(refused) == (
        "does not fit: 16.00G of 15.75G of HBM; biggest: 5.00G of weights of other programs"
    )


@pytest.mark.parametrize("preset,looks", [("xcomp-tiny", 2), ("xcomp-demo", 1)])
def test_xcomps_programs_are_those_of_its_engine(preset, looks):
    """All frames are seen once per alignment, and then those that stay.

    Rounds of scoring are half a clip of 8 apart; clips of one frame lie alike in all of them.
    """
    config = programs.read_config(f"configs/ask_xcomp.py:{preset}", ["mesh.tensor=2", "ask.frames=256"])
    config.ask.budget = 1024
    mesh, found = programs.make_programs(config, jax.devices())
    with jax.set_mesh(mesh):
        traced = {program.name: program for program in found}
        traced["scoring chunk"].lower()
    assert list(traced) == ["vision chunk", "scoring chunk", "prefill", "decode step"]
    assert traced["vision chunk"].runs * 32 * 8 == looks * 256 + 64, "32 frames on each of 8 chips"
    assert traced["scoring chunk"].runs == 2 and traced["prefill"].tokens == 64 * 16 + 16 + 128
    assert all(program.flops > 0 for program in traced.values())
    config.ask.budget = 8192
    with jax.set_mesh(mesh):
        assert [p.name for p in programs.make_programs(config, jax.devices())[1]] == [
            "vision chunk", "prefill", "decode step"
        ]  # fmt: skip


def test_what_answers_no_questions_is_refused():
    config = programs.read_config("configs/ask_6b.py:qwen3-4b", [])
    with pytest.raises(
        TempoError, match="'qwen3-4b', which answers no questions: choose a Tempo or an XComp"
    ):
        programs.make_programs(config, jax.devices())
