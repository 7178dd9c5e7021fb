"""Live comparison with Hugging Face Qwen2.5, Qwen3 and Qwen3-VL on random small configurations.

float32 on CPU; 1e-5 per layer and 1e-4 for whole models, relative to the largest value.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the live comparison needs the test extra's PyTorch")
pytest.importorskip("transformers")

from tempo_jax.models import rope, vision  # noqa: E402
from tempo_jax.models.compressor import Compressor  # noqa: E402
from tempo_jax.models.config import QWEN_IDS  # noqa: E402
from tempo_jax.models.kernels.attention import attention  # noqa: E402
from tempo_jax.models.layers import get_layer  # noqa: E402
from tempo_jax.models.qwen3_vl import PromptBatch  # noqa: E402
from tempo_jax.prompts import pad_rows  # noqa: E402
from tests import torch_reference as reference  # noqa: E402
from tests.torch_reference import TOLERANCE_LAYER, TOLERANCE_MODEL, difference  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def ids_of(rng, batch, length, vocab=320):
    return rng.randint(0, vocab, (batch, length))


@pytest.mark.parametrize("seed", range(3))
def test_qwen3_hidden_states_of_every_layer_and_logits(seed):
    rng = np.random.RandomState(seed)
    config = reference.random_decoder(rng)
    theirs = reference.qwen3(config, seed)
    ours = reference.native("qwen3", config, theirs)
    ids = ids_of(rng, 2, 37)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids), output_hidden_states=True)
    x, positions = ours.embed(jnp.asarray(ids)), jnp.broadcast_to(jnp.arange(37), (2, 37))
    angles = ours.angles(positions)
    block = jax.jit(
        lambda block, x: block(x, angles, lambda q, k, v, scale: attention(q, k, v, scale=scale, causal=True))
    )
    for index in range(config.num_layers - 1):
        out = block(get_layer(ours.layers, index), jnp.asarray(expected.hidden_states[index].numpy()))
        assert difference(out, expected.hidden_states[index + 1]) < TOLERANCE_LAYER
    hidden = jax.jit(lambda m, x: m(x, positions))(ours, x)
    assert difference(hidden, expected.hidden_states[-1]) < TOLERANCE_MODEL
    assert difference(ours.logits(hidden), expected.logits) < TOLERANCE_MODEL


def test_qwen25_with_biases_and_without_head_norms():
    rng = np.random.RandomState(7)
    config = reference.random_decoder(rng, qk_norm=False, qkv_bias=True)
    config = config.__class__(**{**config.__dict__, "head_dim": 16, "hidden_size": 16 * config.num_heads})
    theirs = reference.qwen2(config, 7)
    ours = reference.native("qwen3", config, theirs)
    ids = ids_of(rng, 2, 21)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits
    hidden = ours(ours.embed(jnp.asarray(ids)), jnp.broadcast_to(jnp.arange(21), (2, 21)))
    assert difference(ours.logits(hidden), expected) < TOLERANCE_MODEL


@pytest.mark.parametrize("seed", range(2))
def test_cached_decoding_equals_recomputation_and_torch(seed):
    """Rows of different lengths, right-padded; eight tokens one by one."""
    rng = np.random.RandomState(seed)
    config = reference.random_decoder(rng)
    theirs = reference.qwen3(config, seed)
    ours = reference.native("qwen3", config, theirs, stacked=False)
    lengths, bucket, new = np.array([19, 11]), 24, 8
    ids = ids_of(rng, 2, bucket)
    positions = jnp.broadcast_to(jnp.arange(bucket), (2, bucket))
    hidden, cache = ours.prefill(ours.embed(jnp.asarray(ids)), positions)
    cache = jax.tree.map(lambda x: jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, new), (0, 0))), cache)
    rows = [list(ids[b, :n]) for b, n in enumerate(lengths)]
    step = jax.jit(lambda m, x, p, c: m.decode_step(x, p, c))
    for t in range(new):
        token = rng.randint(0, config.vocab_size, 2)
        hidden, cache = step(ours, ours.embed(jnp.asarray(token))[:, None], jnp.asarray(lengths + t), cache)
        for b, row in enumerate(rows):
            row.append(token[b])
            with torch.no_grad():
                expected = theirs(torch.tensor([row])).logits[0, -1]
            assert difference(ours.logits(hidden[b, 0]), expected) < TOLERANCE_MODEL


def test_prefix_then_rest_equals_the_whole():
    rng = np.random.RandomState(3)
    config = reference.random_decoder(rng)
    ours = reference.native("qwen3", config, reference.qwen3(config, 3), stacked=False)
    ids, lengths = ids_of(rng, 2, 12), np.array([12, 7])
    rest = ids_of(rng, 1, 6)[0]
    spread = lambda n: jnp.broadcast_to(jnp.arange(n), (2, n))  # noqa: E731
    _, prefix = jax.jit(lambda m, x: m.prefill(x, spread(12)))(ours, ours.embed(jnp.asarray(ids)))
    x = jnp.broadcast_to(ours.embed(jnp.asarray(rest)), (2, 6, config.hidden_size))
    places, lengths = jnp.asarray(lengths)[:, None] + jnp.arange(6), jnp.asarray(lengths)
    after = jax.jit(lambda m, x, prefix: m.extend(x, places, prefix, lengths))(ours, x, prefix)
    whole_of = jax.jit(lambda m, x: m(x, jnp.arange(x.shape[1])[None]))
    for b, n in enumerate(lengths.tolist()):
        row = np.concatenate([ids[b, :n], rest])[None]
        whole = whole_of(ours, ours.embed(jnp.asarray(row)))
        assert difference(after[b], np.asarray(whole)[0, n:]) < TOLERANCE_LAYER


@pytest.mark.parametrize("theta,size", [(5e6, 128), (1e6, 128), (1e4, 64)])
def test_rotary_frequencies_are_pytorchs(theta, size):
    expected = 1.0 / (theta ** (torch.arange(0, size, 2, dtype=torch.float) / size))
    ours = rope.inverse_frequencies(size, theta)
    assert (ours != expected.numpy()).sum() <= 1  # one correctly rounded power that PyTorch misses by a bit
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1.3e-7)


@pytest.mark.parametrize("seed,grid", [(0, (2, 8, 12)), (1, (3, 14, 4)), (2, (1, 6, 6))])
def test_vision_tower(seed, grid):
    """Several slices, frames that are not square, grids above and below the learned one."""
    rng = np.random.RandomState(seed)
    config = reference.random_qwen3_vl(rng)
    theirs = reference.qwen3_vl(config, seed).model.visual
    full = reference.native("qwen3-vl", config, _whole(theirs, config, seed))
    t, h, w = grid
    patches = rng.uniform(-1, 1, (t * h * w, 1536)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(patches), torch.tensor([grid]))
    shaped = jnp.asarray(patches).reshape(t, h * w, 1536)
    tokens, deepstack = jax.jit(lambda m, x: m(m.patch_embed(x), (h, w)))(full.vision, shaped)
    width = config.text.hidden_size
    assert difference(tokens.reshape(-1, width), expected.pooler_output) < TOLERANCE_LAYER
    for ours, feature in zip(deepstack, expected.deepstack_features, strict=True):
        assert difference(ours.reshape(-1, width), feature) < TOLERANCE_LAYER


def _whole(visual, config, seed):
    model = reference.qwen3_vl(config, seed)
    model.model.visual = visual
    return model


def _prompt(rng, pad_id, slices, tokens):
    """Text, then per slice a few text tokens and its visual tokens, then text."""
    row = list(rng.randint(0, 1000, rng.randint(3, 9)))
    for _ in range(slices):
        row += [*rng.randint(0, 1000, rng.randint(1, 5)), *[pad_id] * tokens]
    return [*row, *rng.randint(0, 1000, rng.randint(1, 4))]


@pytest.mark.parametrize("seed,kind", [(0, "video"), (1, "video"), (2, "image")])
def test_qwen3_vl_whole_model(seed, kind):
    """A padded batch of rows with different numbers of slices (odd tails), or of images."""
    rng = np.random.RandomState(seed)
    config = reference.random_qwen3_vl(rng)
    theirs = reference.qwen3_vl(config, seed)
    ours = reference.native("qwen3-vl", config, theirs)
    grid, slices = (4, 6) if kind == "image" else (6, 4), [1, 1] if kind == "image" else [3, 1]
    tokens = grid[0] * grid[1] // 4
    pad_id = QWEN_IDS.image_pad if kind == "image" else QWEN_IDS.video_pad
    rows = [_prompt(rng, pad_id, n, tokens) for n in slices]
    padded = pad_rows(rows, max(map(len, rows)) + 5, (grid[0] // 2, grid[1] // 2))
    patches = rng.uniform(-1, 1, (2, max(slices), grid[0] * grid[1], 1536)).astype(np.float32)

    mask = np.arange(padded.token_ids_SL.shape[1]) < padded.length_S[:, None]
    flat = np.concatenate([patches[b, :n].reshape(-1, 1536) for b, n in enumerate(slices)])
    where = "image" if kind == "image" else "video"
    ids = torch.tensor(padded.token_ids_SL.astype(np.int64))
    types = (padded.visual_index_SL >= 0).astype(np.int32) * (1 if kind == "image" else 2)
    arguments = {
        "pixel_values" if kind == "image" else "pixel_values_videos": torch.tensor(flat),
        f"{where}_grid_thw": torch.tensor([[n, *grid] for n in slices]),
        "attention_mask": torch.tensor(mask.astype(np.int64)),
        "mm_token_type_ids": torch.tensor(types),
    }
    with torch.no_grad():
        expected = theirs(ids, **arguments, output_hidden_states=True)
        positions, _ = theirs.model.get_rope_index(
            ids, torch.tensor(types), **{k: v for k, v in arguments.items() if "grid" in k or "mask" in k}
        )
    np.testing.assert_array_equal(padded.positions_3SL[:, mask], positions.numpy()[:, mask])

    compressor = _compressor(config, ours)
    rows_J = PromptBatch(*map(jnp.asarray, padded[:3]))
    visual = jax.jit(lambda c, x: c.encode_patches(x, grid))(compressor, jnp.asarray(patches))
    hidden = jax.jit(_forward)(compressor, visual, rows_J)
    for b, n in enumerate(padded.length_S):
        assert difference(hidden[b, :n], expected.hidden_states[-1][b, :n]) < TOLERANCE_MODEL
        assert difference(ours.text.logits(hidden[b, :n]), expected.logits[b, :n]) < TOLERANCE_MODEL


def _forward(compressor, visual, rows):
    x, deepstack = compressor.embed(visual, rows)
    return compressor.text(x, rows.positions_3SL, deepstack_FBLD=deepstack)


def _compressor(config, model, memory_tokens=8):
    from flax import nnx

    compressor = Compressor(config, memory_tokens, rngs=nnx.Rngs(0))
    compressor.vision, compressor.text = model.vision, model.text
    return compressor


def test_memory_tokens_in_one_pass_and_after_a_prefix_equal_torch():
    """Memory tokens taken from the vocabulary, so that Hugging Face can be fed the same embeddings."""
    rng = np.random.RandomState(5)
    config = reference.random_qwen3_vl(rng)
    theirs = reference.qwen3_vl(config, 5)
    compressor = _compressor(config, reference.native("qwen3-vl", config, theirs))
    memory_ids, question = rng.randint(0, 1000, 8), rng.randint(0, 1000, 5)
    compressor.memory.embedding[...] = compressor.text.embed(jnp.asarray(memory_ids))
    grid, slices = (4, 8), 3
    prefix_row = _prompt(rng, QWEN_IDS.video_pad, slices, 8)
    row = [*prefix_row, *question]
    patches = rng.uniform(-1, 1, (1, slices, 32, 1536)).astype(np.float32)
    visual = jax.jit(lambda c, x: c.encode_patches(x, grid))(compressor, jnp.asarray(patches))
    with torch.no_grad():
        ids = torch.tensor([[*row, *memory_ids]])
        expected = theirs.model(
            ids,
            pixel_values_videos=torch.tensor(patches.reshape(-1, 1536)),
            video_grid_thw=torch.tensor([[slices, *grid]]),
            mm_token_type_ids=torch.tensor((np.asarray(ids) == QWEN_IDS.video_pad) * 2),
        ).last_hidden_state[0, -8:]

    whole = pad_rows([[*row, *[0] * 8]], len(row) + 11, (2, 4))
    one_pass = jax.jit(lambda c, visual, rows: c(visual, rows, jnp.array([len(row)])))
    memory, _ = one_pass(compressor, visual, PromptBatch(*map(jnp.asarray, whole[:3])))
    assert difference(memory[0], expected) < TOLERANCE_MODEL

    part = pad_rows([prefix_row], len(prefix_row) + 6, (2, 4))
    kv = jax.jit(lambda c, *x: c.prefill(*x))(compressor, visual, PromptBatch(*map(jnp.asarray, part[:3])))
    padded_question = jnp.asarray(np.pad(question, (0, 4)))
    memory, _ = jax.jit(lambda c, *x: c.compress(*x))(
        compressor,
        kv,
        jnp.asarray(part.length_S),
        jnp.asarray(part.next_position_S),
        padded_question,
        len(question),
    )
    assert difference(memory[0], expected) < TOLERANCE_MODEL


def test_attention_in_blocks_equals_attention_at_once(monkeypatch):
    from tempo_jax.models.kernels import attention as module

    rng = np.random.RandomState(0)
    q, k, v = (jnp.asarray(rng.randn(2, n, h, 8), jnp.float32) for n, h in ((21, 4), (30, 2), (30, 2)))
    valid = jnp.asarray(rng.rand(2, 30) < 0.7).at[:, 0].set(True)
    at_once = attention(q, k, v, causal=True, kv_valid_BS=valid)
    monkeypatch.setattr(module, "QUERY_BLOCK", 8)
    assert difference(attention(q, k, v, causal=True, kv_valid_BS=valid), at_once) < 1e-6


def test_vision_position_resampling_matches_pytorch_bilinear():
    rng = np.random.RandomState(1)
    config = reference.random_qwen3_vl(rng).vision
    table = rng.randn(config.num_position_embeddings, 5).astype(np.float32)
    side = int(config.num_position_embeddings**0.5)
    indices, weights = vision._bilinear((10, 6), config)
    ours = (table[indices] * weights[..., None]).sum(0)
    grid = torch.tensor(table).reshape(1, side, side, 5).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, (10, 6), mode="bilinear", align_corners=True)
    expected = expected[0].permute(1, 2, 0).reshape(5, 2, 3, 2, 5).permute(0, 2, 1, 3, 4).reshape(-1, 5)
    assert difference(ours, expected) < TOLERANCE_LAYER


@pytest.mark.parametrize("seed", range(3))
def test_bfloat16_is_no_further_from_float32_than_pytorchs(seed):
    """Root-mean-square distance of the logits from the float32 ones, both in bfloat16 on CPU."""
    import copy

    rng = np.random.RandomState(seed)
    config = reference.random_decoder(rng)
    theirs = reference.qwen3(config, seed)
    ours = reference.native("qwen3", config, theirs)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), ours)
    ids = ids_of(rng, 4, 64)
    with torch.no_grad():
        exact = theirs(torch.tensor(ids)).logits.numpy()
        rounded = copy.deepcopy(theirs).to(torch.bfloat16)(torch.tensor(ids)).logits.float().numpy()
    positions = jnp.broadcast_to(jnp.arange(64), (4, 64))
    hidden = jax.jit(lambda m, i: m(m.embed(i), positions))(half, jnp.asarray(ids))
    logits = np.asarray(half.logits(hidden), np.float32)
    distance = lambda x: float(np.sqrt(np.mean((x - exact) ** 2)))  # noqa: E731
    assert distance(logits) <= 1.02 * distance(rounded)
