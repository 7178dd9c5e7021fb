"""What the planner takes Pallas kernels to do, which say nothing of it themselves."""

import pytest

from tempo_jax.models.kernels import splash
from tempo_jax.plan import cost, hlo


@pytest.mark.parametrize(("name", "products"), [("splash_mha_fwd_residuals.2", 2), ("splash_mha_dkv.1", 5)])
@pytest.mark.parametrize("causal", [False, True])
def test_kernels_are_costed_by_their_operands(name, products, causal):
    """As libtpu 0.0.42 prints them; of seven by seven blocks that are masked 21 are skipped."""
    heads = hlo.Instruction("q", "bf16[4,2,7168,64]{3,2,1,0}", "fusion", "")
    positions = hlo.Instruction("iota.1", "s32[7168,128]{1,0:T(8,128)}", "iota", "")
    operands = "%q, %q, %q" + ", %iota.1" * causal
    shape = "(f32[7168,128]{1,0}, bf16[4,2,7168,64]{3,2,1,0})"
    call = hlo.Instruction(name, shape, "custom-call", f"{operands}), custom_call_target=")
    work = products * 2 * 4 * 2 * 7168**2 * 64 * (28 / 49 if causal else 1)
    flops, size, *_ = cost.kernel_cost(call, [heads, positions])
    assert flops == pytest.approx(work) and size == 64, "not the 128 lanes of what it keeps of a row"
    other = hlo.Instruction("paged", call.shape, call.op, call.rest)
    assert cost.kernel_cost(other, [heads, positions]).flops == 0


@pytest.mark.parametrize(
    ("name", "shape", "products"),
    [
        ("vision_attention_64_forward.1", "bf16[4,512,1024]{2,1,0}", 2),
        (
            "transpose_jvp_vision_attention_64_backward__.1",
            f"({3 * 'bf16[4,512,1024]{2,1,0}, '}f32[4,3,1024])",
            5,
        ),
    ],
)
def test_the_vision_towers_kernel_is_costed_by_its_results(name, shape, products):
    call = hlo.Instruction(name, shape, "custom-call", "%qkv), custom_call_target=")
    assert cost.kernel_cost(call, []) == (products * 2 * 4 * 512**2 * 1024, 64, 0, 0)


@pytest.mark.parametrize(
    ("queries", "keys", "backward", "share"),
    [(1024, 1024, False, 3 / 4), (1024, 1024, True, 1), (256, 1280, False, 1), (2048, 2048, True, 3 / 4)],
)
def test_blocks_that_a_causal_kernel_computes(queries, keys, backward, share):
    assert splash.causal_block_fraction(queries, keys, backward) == pytest.approx(share)


@pytest.mark.parametrize(
    ("name", "products", "share"),
    [
        (
            "splash_mha_fwd_residuals_block_kv_2048_block_kv_dkv_1024_block_q_2048_block_q_dkv_1024.1",
            2,
            3 / 4,
        ),
        ("splash_mha_dkv_block_kv_dkv_1024_block_kv_dkv_compute_1024_block_q_dkv_1024.7", 5, 10 / 16),
        ("splash_mha_dq_block_kv_dq_512_block_q_dq_512_k_layout_1.6", 2, 36 / 64),
    ],
)
def test_kernels_whose_names_have_the_lengths_of_blocks(name, products, share):
    """As jax 0.6 names them: the forward kernel's name has those of the backward kernel too."""
    heads = hlo.Instruction("q", "bf16[4,2,4096,128]{3,2,1,0}", "fusion", "")
    positions = hlo.Instruction("iota.1", "s32[4096,128]{1,0:T(8,128)}", "iota", "")
    call = hlo.Instruction(name, "f32[4096,128]{1,0}", "custom-call", "%q, %q, %iota.1), custom_call_target=")
    flops, *_ = cost.kernel_cost(call, [heads, positions])
    assert flops == pytest.approx(products * 2 * 4 * 2 * 4096**2 * 128 * share)


def test_kernels_that_move_are_costed_by_their_bytes():
    x = hlo.Instruction("x", "bf16[4,256,1024]{2,1,0}", "fusion", "")
    call = hlo.Instruction(
        "qk_norm_rope_fwd.3", "bf16[4,8,256,128]{3,2,1,0}", "custom-call", "%x), custom_call_target="
    )
    assert cost.kernel_cost(call, [x]).copied_bytes == 2 * 2 * 4 * 256 * 1024


def test_the_kernel_of_one_token_is_costed_by_what_it_reads():
    cache = hlo.Instruction("cache", "bf16[1,2,10304,128]{3,2,1,0}", "get-tuple-element", "")
    call = hlo.Instruction(
        "decode_attention.7",
        "(bf16[1,1,1024], bf16[1,1,256])",
        "custom-call",
        "%cache, %cache), custom_call_target=",
    )
    found = cost.kernel_cost(call, [cache])
    assert found.cache_bytes == 2 * 2 * 2 * 10304 * 128 and not found.copied_bytes and not found.flops


@pytest.mark.parametrize(("said", "cycles"), [("1165", 1165), ("9223372036854775807", 0)])
def test_an_estimate_that_is_none(said, cycles):
    scatter = hlo.Instruction(
        "offloaded", "f32[784]{0}", "fusion", f'x), backend_config={{"estimated_cycles":"{said}"}}'
    )
    assert scatter.cycles == cycles
