"""Both systems at once: LP-Comp inside Tempo's LLM, and QC-Comp's choice before its compressor."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from tempo_jax import cli
from tempo_jax.cli import common
from tempo_jax.errors import TempoError
from tempo_jax.hybrid import lp_comp_for_tempo, xcomp_selector
from tempo_jax.models import build
from tempo_jax.models.decoder import Decoder
from tempo_jax.models.kernels.attention import attention
from tempo_jax.models.presets import XCOMP_TINY
from tempo_jax.models.tempo import pack
from tempo_jax.runtime.session import GenerationRequest
from tempo_jax.tempo.engine import Tempo
from tempo_jax.tempo.options import LP_COMP, Options
from tempo_jax.video import open_video, segments
from tempo_jax.xcomp import token_compression
from tempo_jax.xcomp import token_compression as schedule
from tests import xcomp_systems as xcomps
from tests.small_demo import DEMO
from tests.systems import relative

pytestmark = pytest.mark.usefixtures("quick_compilation")

LAYERS, MEMORY, WIDTH = 3, 8, 64
LLM = dataclasses.replace(XCOMP_TINY.llm, vocab_size=64, num_layers=LAYERS)
PREFIX, SUFFIX, TAG, SEGMENTS, BUCKET = 3, 5, 2, 6, 64
QUESTION = "Which thing comes just before the red star?"


@pytest.fixture(scope="module")
def decoder():
    return Decoder(LLM, rngs=nnx.Rngs(5), stacked=False)


def plan_of(keep: str) -> lp_comp_for_tempo.SegmentDropSchedule:
    text = PREFIX + SUFFIX + TAG * SEGMENTS
    return lp_comp_for_tempo.make_schedule(
        keep, LAYERS, MEMORY, bucket=BUCKET, segments=SEGMENTS, text_tokens=text
    )


def packed_of(allocation):
    tags = jnp.ones((SEGMENTS, TAG), jnp.int32)
    return pack(
        jnp.asarray(allocation), tags, jnp.ones(PREFIX, jnp.int32), jnp.ones(SUFFIX, jnp.int32),
        memory_tokens=MEMORY, bucket=BUCKET,
    )  # fmt: skip


@jax.jit
def one_layer(decoder, block, x_LD):
    angles = decoder.angles(jnp.arange(len(x_LD))[None])
    return block(x_LD[None], angles, lambda q, k, v, scale: attention(q, k, v, scale=scale, causal=True))[0]


def by_hand(decoder, x, allocation, keep):
    """Lists of tokens and no padding: hidden states of the last layer, and what each layer saw."""
    tokens = [("text", 0, 0)] * PREFIX
    for kept in allocation:
        tokens += [("text", 0, 0)] * (TAG if kept else 0) + [("memory", i, kept) for i in range(kept)]
    tokens += [("text", 0, 0)] * SUFFIX
    x, lengths = np.asarray(x[: len(tokens)]), []
    for number, count in enumerate(schedule.cosine_counts(LAYERS, MEMORY)[1:]):

        def stays(kind, place, kept, count=count):
            left = -(-kept * count // MEMORY)
            return kind == "text" or (place < left if keep == "prefix" else place >= kept - left)

        alive = [i for i, token in enumerate(tokens) if stays(*token)]
        x, tokens = x[alive], [tokens[i] for i in alive]
        x = np.asarray(one_layer(decoder, decoder.layers[number], x))
        lengths.append(len(tokens))
    return decoder.norm(jnp.asarray(x)), lengths


@pytest.mark.parametrize("keep", lp_comp_for_tempo.KEEPS)
@pytest.mark.parametrize("allocation", [[8, 1, 0, 4, 5, 2], [8] * 3 + [1] * 3])
def test_segments_of_different_lengths_lose_their_share(decoder, keep, allocation):
    packed, plan = packed_of(allocation), plan_of(keep)
    x = jnp.asarray(np.random.RandomState(2).standard_normal((BUCKET, WIDTH)), jnp.float32)
    where = lp_comp_for_tempo.token_positions(packed, jnp.asarray(allocation), MEMORY)
    hidden, caches, lengths = jax.jit(lp_comp_for_tempo.prefill, static_argnums=3)(decoder, x, where, plan)
    theirs, seen = by_hand(decoder, x, allocation, keep)
    np.testing.assert_array_equal(lengths[:, 0], seen)
    np.testing.assert_allclose(hidden[0, : seen[-1]], theirs, atol=2e-5)
    assert [k.shape[1] for k, _ in caches] == list(plan.lengths)
    memory = lp_comp_for_tempo.layer_tokens(np.array(allocation), plan)
    text = PREFIX + SUFFIX + TAG * sum(kept > 0 for kept in allocation)
    np.testing.assert_array_equal(memory + text, seen)


def test_whole_segments_without_tags_are_xcomps_frames(decoder):
    """The same hidden states as XComp's own code, of three frames of 8 tokens."""
    x = jnp.asarray(np.random.RandomState(3).standard_normal((PREFIX + 24 + SUFFIX, WIDTH)), jnp.float32)
    rows = token_compression.RowLengths(*(jnp.array([n]) for n in (PREFIX, 3, SUFFIX)))
    made = schedule.make_schedule(schedule.VARIANTS["released"], LAYERS, MEMORY)
    read = jax.jit(token_compression.prefill, static_argnums=(3, 4))
    theirs, _ = read(decoder, x[None], rows, token_compression.RowCapacity(PREFIX + SUFFIX, 3), made)
    number = np.r_[np.zeros(PREFIX), np.tile(np.arange(MEMORY), 3), np.zeros(SUFFIX)]
    kept = np.r_[np.zeros(PREFIX), np.full(24, MEMORY), np.zeros(SUFFIX)]
    where = lp_comp_for_tempo.TokenPositions(jnp.asarray(number, jnp.int32), jnp.asarray(kept, jnp.int32))
    plan = lp_comp_for_tempo.make_schedule(
        "suffix", LAYERS, MEMORY, bucket=len(x), segments=3, text_tokens=PREFIX + SUFFIX
    )
    hidden, _, lengths = jax.jit(lp_comp_for_tempo.prefill, static_argnums=3)(decoder, x, where, plan)
    assert int(lengths[-1, 0]) == PREFIX + SUFFIX + 3
    np.testing.assert_allclose(hidden[0, : PREFIX + SUFFIX + 3], theirs[0], atol=2e-5)


def test_a_schedule_that_keeps_everything_changes_nothing(decoder):
    allocation = [8, 1, 0, 4, 5, 2]
    packed, x = packed_of(allocation), jnp.ones((BUCKET, WIDTH)) * jnp.arange(BUCKET)[:, None] / 64
    plan = lp_comp_for_tempo.SegmentDropSchedule("suffix", MEMORY, (MEMORY,) * LAYERS, (BUCKET,) * LAYERS)
    where = lp_comp_for_tempo.token_positions(packed, jnp.asarray(allocation), MEMORY)
    hidden, _, lengths = jax.jit(lp_comp_for_tempo.prefill, static_argnums=3)(decoder, x, where, plan)
    plain, _ = jax.jit(lambda decoder: decoder.prefill(x[None], jnp.arange(BUCKET)[None]))(decoder)
    assert (lengths == packed.length).all()
    np.testing.assert_allclose(hidden[0, : int(packed.length)], plain[0, : int(packed.length)], atol=2e-5)


@given(
    st.lists(st.integers(0, 128), min_size=1, max_size=64),
    st.sampled_from([2, 4, 28, 36]),
    st.integers(0, 300),
)
def test_there_is_room_in_every_layer(allocation, layers, text):
    segments_of = len(allocation)
    bucket = sum(allocation) + text or 1
    plan = lp_comp_for_tempo.make_schedule(
        "suffix", layers, 128, bucket=bucket, segments=segments_of, text_tokens=text
    )
    seen = lp_comp_for_tempo.layer_tokens(np.array(allocation), plan)
    assert all(seen + text <= plan.lengths) and all(np.diff(seen) <= 0) and all(np.diff(plan.lengths) <= 0)
    assert seen[-1] == sum(kept > 0 for kept in allocation)


@pytest.fixture(scope="module")
def tempo(tokenizer):
    params = build.parameters(build.init(DEMO, 1))
    return Tempo(DEMO, params, tokenizer)


@pytest.fixture(scope="module")
def video():
    return np.random.RandomState(0).randint(0, 256, (76, 64, 64, 3)).astype(np.uint8)


def test_tempo_asked_with_lp_comp(tempo, video):
    clip = tempo.open(video)
    plain, less, other = (clip.ask(QUESTION, max_new_tokens=6, lp_comp=name) for name in LP_COMP)
    assert plain.usage["layer_tokens"] == plain.usage["prompt_tokens"]
    assert less.usage["visual_tokens"] == plain.usage["visual_tokens"]
    assert less.usage["layer_tokens"] == other.usage["layer_tokens"] < plain.usage["layer_tokens"]
    logits = [clip.inspect(QUESTION, lp_comp=name).logits for name in LP_COMP]
    assert relative(logits[1], logits[0]) > 1e-3 < relative(logits[2], logits[1])
    turns = [
        GenerationRequest(QUESTION, Options(max_new_tokens=6, lp_comp=name)) for name in (*LP_COMP, "suffix")
    ]
    clip.answer(turns)
    alone = [plain, less, other, less]
    assert [turn.answer.token_ids for turn in turns] == [answer.token_ids for answer in alone]
    with pytest.raises(TempoError, match=r"lp_comp is 'uniform' .*must be one of none, suffix, prefix"):
        clip.ask(QUESTION, lp_comp="uniform")


@pytest.fixture(scope="module")
def selector(tokenizer):
    return xcomps.micro(tokenizer)


def test_the_best_segments_go_to_tempo(tempo, selector, video):
    source = open_video(video, config=tempo.config.video)
    scores = xcomp_selector.frame_scores(selector, source, QUESTION)
    assert scores.shape == (76,) and (scores > 0).all()
    part = tempo.select_segments(video, QUESTION, selector, selected_frames=35)  # four segments and a bit
    every = segments(76, 2.0)
    means = np.array([scores[s.start : s.stop].mean() for s in every])
    wanted = sorted(np.argsort(-means, kind="stable")[:4])
    assert [s.index for s in part.selected_segments] == wanted
    frames = np.concatenate(list(part.chunks(16)))
    np.testing.assert_array_equal(
        frames, np.concatenate([video[s.start : s.stop] for s in part.selected_segments])
    )
    answer = tempo.ask(video, QUESTION, selector=selector, selected_frames=35, max_new_tokens=4)
    assert [s.index for s in answer.segments] == wanted
    assert [s.start_seconds for s in answer.segments] == [every[i].start_seconds for i in wanted]
    assert (answer.usage["frames"], answer.usage["frames_kept"]) == (76, len(frames))
    assert answer.usage["tokens_per_frame"] == answer.usage["visual_tokens"] / 76
    assert answer.token_ids == tempo.ask(part, QUESTION, max_new_tokens=4).token_ids


def test_what_is_short_or_spread_needs_no_scores(tempo, selector, video):
    source = open_video(video, config=tempo.config.video)
    assert xcomp_selector.select_segments(None, source, QUESTION, 76) is source
    spread = xcomp_selector.select_segments(None, source, QUESTION, 40, strategy="uniform")
    assert [s.index for s in spread.selected_segments] == [0, 2, 4, 6, 8]


def test_mistakes_are_sentences(tempo, selector, video):
    with pytest.raises(TempoError, match="An image has no frames to choose from"):
        tempo.select_segments(video[0], QUESTION, selector)
    with pytest.raises(TempoError, match="5 frames are fewer than a segment's 8"):
        tempo.select_segments(video, QUESTION, selector, selected_frames=5)
    with pytest.raises(TempoError, match="The selector is a Tempo, but QC-Comp needs an XComp"):
        tempo.ask(video, QUESTION, selector=tempo)


def test_the_command_takes_a_selector(monkeypatch, capsys, tmp_path, tempo, selector, video):
    np.save(tmp_path / "video.npy", video)
    loaded = {"tempo": tempo, "xcomp": selector}
    monkeypatch.setattr(common, "load", lambda folder, dtype=None: loaded[folder.name])
    for name in loaded:
        (tmp_path / name).mkdir()
    asked = ["ask", str(tmp_path / "video.npy"), QUESTION, "--checkpoint", str(tmp_path / "tempo")]
    asked += ["--selector", str(tmp_path / "xcomp"), "--selected-frames", "16", "--json"]
    assert cli.main([*asked, "--max-new-tokens", "2", "--lp-comp", "suffix"]) == 0
    assert '"frames_kept": 16' in capsys.readouterr().out
    asked[4] = str(tmp_path / "xcomp")
    assert cli.main(asked) == 2
    assert "XComp selects its own: leave it out" in capsys.readouterr().err
