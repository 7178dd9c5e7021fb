"""LP-Comp against recorded runs of the released code, and what must not change a result (T6)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempo_jax.models import build, stacks
from tempo_jax.models.config import LPCompConfig
from tempo_jax.models.decoder import Decoder
from tempo_jax.models.kernels.attention import attention
from tempo_jax.models.presets import XCOMP_TINY
from tempo_jax.runtime import generate
from tempo_jax.xcomp import token_compression
from tempo_jax.xcomp.token_compression import VARIANTS, make_schedule
from tests import xcomp_systems as tiny
from tests.xcomp_systems import recorded

pytestmark = pytest.mark.usefixtures("quick_compilation")

RUNS = {"suffix_F24": "released", "uniform_F8": "uniform", "stepwise_F8": "steps", "off_F8": "none"}
STATES = (0, 8, 15, 23, 27)
PADDING = 3


def inputs(llm: Decoder, ids: np.ndarray, visual: np.ndarray, padding: int = 0):
    """Embeddings [1, L, D] of a recorded prompt, its rows and room."""
    prefix = int(np.flatnonzero(ids == tiny.PLACEHOLDER)[0])
    text = llm.embed(jnp.asarray(np.where(ids == tiny.PLACEHOLDER, 0, ids)))
    end = jnp.zeros((padding, text.shape[1])) + 9.0
    x = jnp.concatenate([text[:prefix], jnp.asarray(visual), text[prefix + 1 :], end])[None]
    frames, suffix = len(visual) // 16, len(ids) - 1 - prefix
    rows = token_compression.RowLengths(*(jnp.array([n]) for n in (prefix, frames, suffix)))
    return x, rows, token_compression.RowCapacity(prefix + suffix + padding, frames)


@functools.partial(jax.jit, static_argnames=("room", "variant", "capacity"))
def read(llm, x, rows, *, room, variant, capacity):
    """Hidden states of a prompt, caches, and the state to generate from."""
    made = make_schedule(VARIANTS[variant], 28, 16)
    states, caches = {}, []

    def attend(q, k, v, scale):  # as in lp_comp.prefill, which shows no states
        caches.append((k, v))
        return attention(q, k, v, scale=scale, causal=True)

    for index, entering in token_compression.iterate_layers(llm, x, rows, room, made, attend):
        states[index] = entering[0]
    hidden = llm.norm(entering)
    lengths = rows.per_layer(made)
    last = jnp.take_along_axis(hidden, lengths[-1][:, None, None] - 1, axis=1)[:, 0]
    sampling = generate.SamplingParams(jnp.float32(1), jnp.float32(1), jax.random.key(0))
    start = generate.init_decode_state(
        llm.logits(last), lengths, caches, sampling, capacity=capacity, greedy=True, eos=(0,)
    )
    return {i: states[i] for i in STATES}, hidden[0], caches, llm.logits(last)[0], start


def test_recorded_prefill_and_decode():
    """Hidden states, keys and values, logits, positions and greedy ids; in a padded row."""
    run, llm = recorded("prefill_suffix_F8"), tiny.model().llm
    visual = tiny.visual(int(run["vis_seed"]), int(run["F"]))
    np.testing.assert_allclose(visual[0], run["vis_row0"], rtol=1e-6)
    x, rows, room = inputs(llm, run["ids"], visual, PADDING)
    states, hidden, caches, logits, state = read(llm, x, rows, room=room, variant="released", capacity=16)
    np.testing.assert_array_equal(state.length_B[:, 0], run["lens"])
    for index in STATES:
        length = int(run["lens"][index])
        np.testing.assert_allclose(states[index][:length:3], run[f"hid_in_{index}"], atol=1e-3)
    check_outputs(llm, hidden, run)
    for index in (0, 14, 27):
        for array, key in zip(caches[index], "kv", strict=True):
            ours = array[0, : int(run["kv_lens"][index])].swapaxes(0, 1)[:, ::3]
            np.testing.assert_allclose(ours, run[f"{key}_cache_{index}"], atol=1e-3)
    np.testing.assert_allclose(logits[:4096], run["last_logits"], atol=1e-3)
    for token, positions in enumerate(run["decode_pos"]):
        np.testing.assert_array_equal(state.length_B[:, 0] + token, positions)
    for penalty, name in ((1.0, "gen_ids"), (1.1, "gen_ids_rep1p1")):
        penalized = state.sampling._replace(repetition_penalty=jnp.full(1, penalty))
        start = jax.tree.map(jnp.copy, state._replace(sampling=penalized))
        found = generate.decode(llm, start, np.full(1, 16), greedy=True, eos=(0,))
        np.testing.assert_array_equal(found.tokens_BN[0, :16], run[name])


def check_outputs(llm, hidden, run):
    """Of every position that is left, and the last one's logits."""
    last = int(run["lens"][-1])
    np.testing.assert_allclose(hidden[:last], run["hid_norm"], atol=1e-3)
    everywhere = llm.logits(hidden[:last])
    np.testing.assert_array_equal(everywhere.argmax(-1), run["argmax_all"])
    np.testing.assert_allclose(jax.nn.logsumexp(everywhere, axis=-1), run["lse_all"], atol=1e-3)
    np.testing.assert_allclose(everywhere[-1, :4096], run["last_logits"], atol=1e-3)


@pytest.mark.parametrize("name", RUNS)
def test_recorded_variants(name):
    """As training runs them, scanned between drops."""
    run, llm = recorded(f"prefill_{name}"), tiny.model(stacked=True).llm
    x, rows, room = inputs(llm, run["ids"], tiny.visual(int(run["vis_seed"]), int(run["F"])), PADDING)
    made = make_schedule(VARIANTS[RUNS[name]], 28, 16)
    np.testing.assert_array_equal(rows.per_layer(made)[:, 0], run["lens"])
    np.testing.assert_array_equal(run["kv_lens"], run["lens"])
    hidden = forward(llm, x, rows, room, made)
    check_outputs(llm, hidden[0], run)


forward = jax.jit(token_compression.forward, static_argnums=(3, 4))


# Equivalences, on a smaller LLM.

SMALL = dataclasses.replace(XCOMP_TINY.llm, vocab_size=64, num_layers=4)
SLOT = 4


@functools.cache
def small(stacked: bool = False) -> Decoder:
    params = build.parameters(build.init(SMALL, seed=1))
    return build.build(SMALL, params if stacked else stacks.unstack_layers(params))


def row(seed: int, length: int) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal((1, length, 64)).astype(np.float32)


def rows_of(*triples):
    return token_compression.RowLengths(*(jnp.asarray(column, jnp.int32) for column in zip(*triples)))


@functools.partial(jax.jit, static_argnums=(3, 4))
def hidden_of(llm, x, rows, room, made):
    return token_compression.prefill(llm, x, rows, room, made)


@pytest.mark.parametrize("name", ["released", "uniform"])
def test_training_and_inference_agree(name):
    """Runs of layers scanned, or unrolled with caches."""
    made, rows, room = (
        make_schedule(VARIANTS[name], 4, SLOT),
        rows_of((3, 2, 4)),
        token_compression.RowCapacity(7, 2),
    )
    x = row(0, 15)
    ours, _ = hidden_of(small(), x, rows, room, made)
    scanned = forward(small(stacked=True), x, rows, room, made)
    np.testing.assert_allclose(ours, scanned, atol=1e-5)


def test_without_compression_it_is_the_plain_llm():
    """T6a, bit for bit."""
    made, rows, room = (
        make_schedule(VARIANTS["none"], 4, SLOT),
        rows_of((3, 2, 4)),
        token_compression.RowCapacity(7, 2),
    )
    x = row(0, 15)
    ours, caches = hidden_of(small(), x, rows, room, made)
    plain, plain_caches = jax.jit(Decoder.prefill)(small(), x, jnp.arange(15)[None])
    np.testing.assert_array_equal(ours, plain)
    jax.tree.map(np.testing.assert_array_equal, caches, plain_caches)


@settings(max_examples=8)
@given(st.sampled_from(["released", "uniform"]), st.integers(0, 1000))
def test_a_token_read_is_a_token_generated(name, seed):
    """T6b, T6d: reading prompt and token at once, or the prompt and then the token."""
    made, llm, room = make_schedule(VARIANTS[name], 4, SLOT), small(), token_compression.RowCapacity(7, 2)
    x = row(seed, 15)
    whole, _ = hidden_of(llm, x, rows_of((3, 2, 4)), room, made)
    rows = rows_of((3, 2, 3))
    _, caches = hidden_of(llm, x, rows, room, made)
    buffers = jax.tree.map(lambda x: x.swapaxes(1, 2), caches)
    stepped, _ = _step(llm, x[:, 14:15], rows.per_layer(made), buffers)
    np.testing.assert_allclose(stepped[0, 0], whole[0, 8], atol=1e-5)


_step = jax.jit(lambda llm, x, lengths, caches: llm.decode_step(x, lengths, caches))


@settings(max_examples=6)
@given(st.integers(0, 1000))
def test_rows_of_a_batch_do_not_see_each_other(seed):
    """Padded rows of different lengths give what each gives alone."""
    made, room = make_schedule(VARIANTS["released"], 4, SLOT), token_compression.RowCapacity(7, 3)
    triples = [(3, 3, 4), (2, 1, 3), (1, 2, 6)]
    x = np.concatenate([row(seed + i, room.length(SLOT)) for i in range(len(triples))])
    together, _ = hidden_of(small(), x, rows_of(*triples), room, made)
    for i, triple in enumerate(triples):
        alone, _ = hidden_of(small(), x[i : i + 1], rows_of(triple), room, made)
        n = triple[0] + triple[1] + triple[2]
        np.testing.assert_allclose(together[i, :n], alone[0, :n], atol=1e-5)


def test_deleted_tokens_cannot_matter_later():
    """T6c: with a drop before layer 1, the tokens it deletes change nothing; those that stay do."""
    made, rows, room = (
        make_schedule(LPCompConfig(), 4, 16),
        rows_of((3, 2, 4)),
        token_compression.RowCapacity(7, 2),
    )
    assert made.input_tokens == 16 and made.layer_tokens == (14, 9, 3, 1)
    x = row(0, 39)
    changed = x.copy()
    changed[:, [3, 4, 19, 20]] = 7.0
    before, _ = hidden_of(small(), x, rows, room, made)
    after, _ = hidden_of(small(), changed, rows, room, made)
    np.testing.assert_array_equal(before, after)
    changed[:, 5] = 7.0
    after, _ = hidden_of(small(), changed, rows, room, made)
    assert np.abs(before - after).max() > 1e-3
