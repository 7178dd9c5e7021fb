"""The engine on tiny random weights: what must not change an answer, and what must be said."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tempo_jax.data import demo_tokenizer
from tempo_jax.errors import TempoError
from tempo_jax.models.config import VideoConfig
from tempo_jax.prompts import DEFAULT_QUESTION, Tokenizer
from tempo_jax.runtime import buckets, generate, prefetch
from tempo_jax.runtime.session import TextStream
from tempo_jax.tempo import steps
from tests import systems
from tests.systems import recorded_frames, relative

pytestmark = pytest.mark.usefixtures("quick_compilation")

QUESTION = "What colour is the ball?"


def tiny_tempo(tokenizer, **changes):
    """The tiny system on small frames: 64 patches a slice instead of 512."""
    return systems.tiny_tempo(tokenizer, video=VideoConfig(min_pixels=16_384), **changes)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Names every id, so that random answers are text."""
    folder = tmp_path_factory.mktemp("tokenizer")
    demo_tokenizer.write(folder, fill=True)
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def tempo(tokenizer):
    return tiny_tempo(tokenizer)


@pytest.fixture(scope="module")
def frames():
    return recorded_frames(1, 37, 64, 128)


@pytest.fixture(scope="module")
def clip(tempo, frames):
    return tempo.open(frames)


@pytest.fixture(scope="module")
def seen(clip):
    return clip.inspect(QUESTION, budget=40)


def same_numbers(one, other, tolerance=2e-5):
    np.testing.assert_array_equal(one.allocation, other.allocation)
    assert one.sequence_length == other.sequence_length
    assert relative(one.relevance, other.relevance) < tolerance
    assert relative(one.memory, other.memory) < tolerance
    assert relative(one.logits, other.logits) < tolerance


# What must not change an answer


@pytest.mark.parametrize("chunk", [1, 2])
def test_chunk_size_does_not_change_numbers(tokenizer, frames, seen, chunk):
    other = tiny_tempo(tokenizer, chunk_segments=chunk)
    same_numbers(other.inspect(frames, QUESTION, budget=40), seen)


def test_padding_does_not_change_numbers(tempo, frames, seen, monkeypatch):
    """More padded segments, longer rows and a longer prefill bucket."""
    monkeypatch.setattr(buckets, "SEGMENT_BUCKETS", (24,))
    monkeypatch.setattr(buckets, "PREFILL_BUCKETS", (768,))
    monkeypatch.setattr("tempo_jax.tempo.layout.PROMPT_ALIGNMENT", 256)
    monkeypatch.setattr(buckets, "QUESTION_ALIGNMENT", {"cpu": 192})
    same_numbers(tempo.inspect(frames, QUESTION, budget=40), seen)


def test_one_question_equals_the_same_on_an_open_clip(tempo, frames, clip):
    once = tempo.ask(frames, QUESTION, budget=40, max_new_tokens=6)
    clip.ask("Something else first", budget=10, max_new_tokens=2)
    again = clip.ask(QUESTION, budget=40, max_new_tokens=6)
    assert (once.text, once.token_ids, once.segments) == (again.text, again.token_ids, again.segments)


def test_prefix_cache_gives_identical_results_and_reads_nothing_again(tempo, frames, clip, monkeypatch):
    cached = tempo.open(frames, prefix_cache=True)
    assert cached.held_bytes["prefix"] > 0 and clip.held_bytes["visual"] > 0
    monkeypatch.setattr(cached.source, "chunks", None)  # would fail if asked for frames
    monkeypatch.setattr("tempo_jax.tempo.steps.encode_frames", None)
    monkeypatch.setattr("tempo_jax.tempo.steps.prefill_video", None)
    for question in (QUESTION, "And who throws it?"):
        result = cached.inspect(question, budget=40)
        monkeypatch.undo()
        expected = clip.inspect(question, budget=40)
        for field in ("relevance", "allocation", "memory", "logits"):
            np.testing.assert_array_equal(getattr(result, field), getattr(expected, field))


def test_open_clip_needs_no_decoding(clip, monkeypatch):
    monkeypatch.setattr(clip.source, "chunks", None)
    monkeypatch.setattr("tempo_jax.tempo.steps.encode_frames", None)
    assert clip.ask(QUESTION, budget=40, max_new_tokens=2).usage["frames"] == 37


def test_fewer_memory_tokens_give_a_prefix_of_the_memory(clip, tempo, seen):
    """The first k memory tokens do not depend on the later ones (docs/reference/tempo.md#memory-tokens)."""
    from tempo_jax.models.compressor import Compressor

    full = tempo.model.compressor
    graph = jax.tree.map(lambda x: x, full)
    assert isinstance(graph, Compressor)
    graph.memory.embedding = type(full.memory.embedding)(full.memory.embedding[:5])
    ids = jnp.asarray(tempo.tokenizer.question_ids(QUESTION), jnp.int32)
    chunk = clip.layout.chunks[0]
    memory, relevance = graph.compress(
        clip._features.prefix(0, clip._features._cached_chunks[0]),
        jnp.asarray(chunk.prompt_length_C),
        jnp.asarray(chunk.next_position_C),
        ids,
        len(ids),
    )
    count = clip.layout.num_segments
    assert relative(memory[:count], seen.memory[:, :5]) < 2e-5
    assert relative(relevance[:count], seen.relevance) < 2e-5


def test_chips_compress_without_each_other(tokenizer, frames):
    """The LLM is split by heads over all chips; vision tower and compressor exchange nothing."""
    from tempo_jax.sharding import make_mesh

    sharded = tiny_tempo(tokenizer, mesh=make_mesh(1, 1, 8))
    clip, compressor = sharded.open(frames), sharded.model.compressor
    assert not sharded.model.llm.layers[0].mlp.up.kernel[...].is_fully_replicated
    assert compressor.text.layers[0].mlp.up.kernel[...].is_fully_replicated
    (visual,) = clip._features._cached_chunks
    pixels = jax.ShapeDtypeStruct((8, 8, 64, 64, 3), "uint8", sharding=visual.tokens_SVD.sharding)
    rows = sharded.place.put(clip.layout.chunks[0].prompts)
    with sharded.place():
        for lowered in (
            steps.encode_frames.lower(compressor, pixels),
            steps.prefill_video.lower(compressor, visual, rows),
        ):
            text = lowered.compile().as_text()
            assert not re.search("all-reduce|all-gather|all-to-all|collective-permute", text)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)])
def test_a_mesh_gives_the_numbers_of_one_device(tokenizer, frames, seen, clip, shape):
    from tempo_jax.sharding import make_mesh

    data, fsdp, tensor = shape
    sharded = tiny_tempo(tokenizer, mesh=make_mesh(data, fsdp, tensor)).open(frames)
    same_numbers(sharded.inspect(QUESTION, budget=40), seen)
    answer = sharded.ask(QUESTION, budget=40, max_new_tokens=4)
    assert answer.token_ids == clip.ask(QUESTION, budget=40, max_new_tokens=4).token_ids


def test_bfloat16_stays_close(tokenizer, frames, seen):
    half = tiny_tempo(tokenizer, dtype=jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    assert half.model.compressor.relevance.direction.dtype == jnp.float32
    got = half.inspect(frames, QUESTION, budget=40)
    assert relative(got.memory, seen.memory) < 0.1


# Budgets


@pytest.mark.parametrize("budget", [1, 3, 20, 64, 10**12])
def test_the_budget_is_never_exceeded(clip, budget):
    answer = clip.ask(QUESTION, budget=budget, max_new_tokens=1)
    tokens = [s.tokens for s in answer.segments]
    assert answer.usage["visual_tokens"] == sum(tokens) <= budget
    assert len(tokens) == 5
    if budget == 3:  # fewer than segments: one token for each of the most relevant
        best = np.argsort([-s.relevance for s in answer.segments])[:3]
        assert sorted(best) == [i for i, n in enumerate(tokens) if n] and set(tokens) == {0, 1}


@pytest.mark.parametrize("strategy", ["tail", "random", "tome"])
def test_strategies_keep_the_same_number_of_other_tokens(clip, seen, strategy):
    other = clip.inspect(QUESTION, budget=40, strategy=strategy)
    np.testing.assert_array_equal(other.allocation, seen.allocation)
    assert relative(other.logits, seen.logits) > 1e-3


def test_no_compression_keeps_everything(clip):
    answer = clip.ask(QUESTION, budget=7, compress=False, max_new_tokens=1)
    assert [s.tokens for s in answer.segments] == [16] * 5
    assert answer.usage["visual_tokens"] == answer.usage["budget"] == 80


def test_running_out_of_context_lowers_the_budget_and_says_so(tokenizer, frames, clip):
    full = clip.ask(QUESTION, max_new_tokens=4)
    room = full.usage["prompt_tokens"] - full.usage["visual_tokens"] + 4
    short = tiny_tempo(tokenizer, context_length=room + 30)
    answer = short.ask(frames, QUESTION, max_new_tokens=4)
    assert answer.usage["budget"] == 30 >= answer.usage["visual_tokens"]
    assert "lowered from 8192 to 30" in answer.warnings[0]
    seen = short.inspect(frames, QUESTION, max_new_tokens=4)
    assert seen.allocation.tolist() == [s.tokens for s in answer.segments]
    assert seen.warnings == answer.warnings
    with pytest.raises(TempoError, match="Without compression the video takes 80 tokens"):
        short.ask(frames, QUESTION, compress=False, max_new_tokens=4)
    with pytest.raises(TempoError, match="leave no room"):
        short.ask(frames, QUESTION * 50, max_new_tokens=4)


# Answers


def test_streamed_pieces_join_to_the_answer(clip):
    answer = clip.ask(QUESTION, budget=40, max_new_tokens=21)
    pieces = list(clip.stream(QUESTION, budget=40, max_new_tokens=21))
    assert len(pieces) > 1 and "".join(pieces) == answer.text == clip.last_answer.text
    assert clip.last_answer.token_ids == answer.token_ids and len(answer.token_ids) == 21
    assert answer.usage["new_tokens"] == 21
    assert answer.timings["total"] >= answer.timings["first_token"] > 0


def test_an_end_token_stops(tokenizer, frames, clip):
    ids = clip.ask(QUESTION, budget=40, max_new_tokens=8).token_ids
    stopping = tiny_tempo(tokenizer, eos_ids=(151_645, ids[2]))
    answer = stopping.ask(frames, QUESTION, budget=40, max_new_tokens=8)
    assert answer.token_ids == ids[: ids.index(ids[2]) + 1]
    assert answer.text == tokenizer.decode([i for i in answer.token_ids if i != ids[2]]).strip()


def test_sampling_depends_on_the_seed_only(clip):
    def ask(seed, **options):
        return clip.ask(QUESTION, budget=40, max_new_tokens=8, seed=seed, **options).token_ids

    hot = ask(1, temperature=5.0)
    assert hot == ask(1, temperature=5.0) != ask(2, temperature=5.0)
    assert ask(3, temperature=5.0, top_p=1e-6) == ask(0)  # nothing but the likeliest token is left
    assert ask(4, temperature=1e-40) == ask(0)


def test_top_p_keeps_the_smallest_sufficient_set():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    for p, kept in ((0.4, 1), (0.5, 1), (0.6, 2), (0.9, 3), (1.0, 4)):
        assert int(jnp.isfinite(generate.top_p(logits, p)).sum()) == kept


def test_an_image_has_all_memory_tokens_and_no_time(tempo):
    answer = tempo.ask(recorded_frames(5, 1, 120, 200)[0], QUESTION, max_new_tokens=2)
    assert answer.segments == () and answer.usage["visual_tokens"] == 16
    assert tempo.inspect(recorded_frames(5, 1, 120, 200)[0], QUESTION).allocation.shape == (0,)


def test_loading_mistakes_are_one_sentence(tmp_path):
    import tempo_jax

    for arguments in ({"checkpoint": None}, {"checkpoint": ""}, {"checkpoint": tmp_path / "no"}):
        with pytest.raises(TempoError):
            tempo_jax.load(**arguments)
    for options in ({"chunk_segments": 0}, {"context_length": "a"}, {"mesh": (2, 2, 2)}):
        with pytest.raises(TempoError):
            tempo_jax.load(tmp_path, **options)


def test_keeping_nothing_and_a_prefix_is_refused(tempo, frames):
    with pytest.raises(TempoError, match="leave out keep=False"):
        tempo.open(frames, keep=False, prefix_cache=True)


def test_lone_surrogates_are_no_text(clip):
    assert clip.ask("a\ud800b", max_new_tokens=2).usage["new_tokens"] == 2


def test_an_empty_question_is_the_published_default_and_said(clip):
    empty, default = clip.ask("  \n", max_new_tokens=2), clip.ask(DEFAULT_QUESTION, max_new_tokens=2)
    assert empty.token_ids == default.token_ids
    assert DEFAULT_QUESTION in empty.warnings[0] and default.warnings == ()


@pytest.mark.parametrize(
    "options,words",
    [
        ({"budget": 0}, "budget is 0"),
        ({"budget": -5}, "budget is -5"),
        ({"budget": 2.5}, "whole number"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"strategy": "best"}, "head, tail, random, tome"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": "x"}, "temperature is 'x'"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"seed": 2**63}, "seed is 9"),
        ({"seed": 1.5}, "seed is 1.5"),
    ],
)
def test_senseless_options_are_one_sentence(clip, options, words):
    with pytest.raises(TempoError, match=words) as error:
        clip.ask(QUESTION, **options)
    assert str(error.value).count("\n") == 0


def test_a_question_must_be_text(clip):
    with pytest.raises(TempoError, match="must be text"):
        clip.ask(None)


# Compilation


def test_nothing_compiles_inside_a_bucket(tokenizer):
    """Fifty random questions, lengths and budgets after the first of each bucket's corners."""
    jax.clear_caches()
    tempo, rng = tiny_tempo(tokenizer), np.random.RandomState(0)
    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(seconds) if "backend_compile" in name else None
    )
    clips = [tempo.open(recorded_frames(s, n, 64, 128)) for s, n in enumerate((33, 64, 50, 41, 38))]
    words = ["where", "when", "who", "red", "blue", "ball", "car", "door", "the", "a", "is", "of"]

    def ask(clip, count, budget):
        question = " ".join(rng.choice(words, count))
        return clip.ask(question, budget=int(budget), max_new_tokens=2).usage["prompt_tokens"]

    # The corners: the longest question with the most memory tokens, and the shortest with the fewest.
    for count, budget in ((12, 128), (12, 1), (1, 128), (1, 1)):
        ask(clips[1], count, budget)
    before = len(compiled)
    assert before > 0
    lengths = {ask(clips[rng.randint(5)], rng.randint(1, 13), rng.randint(1, 129)) for _ in range(50)}
    assert len(lengths) > 10 and max(lengths) <= 256, sorted(lengths)
    assert len(compiled) == before


def test_chunks_and_nearby_prompts_share_programs(tokenizer, frames):
    """As of a loaded checkpoint: results are committed to a device if parameters are."""
    tempo = tiny_tempo(tokenizer, chunk_segments=2)
    tempo.model = jax.device_put(tempo.model, jax.devices()[0])
    steps.compress_chunk.clear_cache()
    generate.decode.clear_cache()
    clip = tempo.open(frames)
    lengths = set()
    for budget in (4, 60):
        clip.ask(QUESTION, budget=budget, max_new_tokens=2)
        lengths.add(clip.last_answer.usage["prompt_tokens"])
    assert len(clip.layout.chunks) > 2 and steps.compress_chunk._cache_size() == 1
    prefilled = {buckets.pick_bucket(length, buckets.PREFILL_BUCKETS) for length in lengths}
    decoded = {buckets.pick_bucket(length, buckets.CACHE_BUCKETS) for length in prefilled}
    assert generate.decode._cache_size() == len(decoded)


# Parts


def test_prefetch_passes_items_and_errors_on_and_closes():
    closed = []

    def numbers():
        try:
            yield 1
            yield 2
            raise KeyError("three")
        finally:
            closed.append(True)

    it = prefetch.prefetch(numbers())
    assert [next(it), next(it)] == [1, 2]
    with pytest.raises(KeyError):
        next(it)
    it = prefetch.prefetch(numbers())
    assert next(it) == 1
    it.close()
    assert closed == [True, True]


def test_text_stream_holds_back_what_may_change(tokenizer):
    ids = tokenizer.encode(" 答案 🙂 done ")
    stream = TextStream(tokenizer, (151_645,))
    pieces = [stream.push(ids[: i + 1], last=False) for i in range(len(ids))]
    pieces.append(stream.push([*ids, 151_645], last=True))
    assert "".join(pieces) == "答案 🙂 done" and not any("\ufffd" in piece for piece in pieces)


def test_answers_are_plain_values(clip):
    answer = clip.ask(QUESTION, max_new_tokens=2)
    assert dataclasses.is_dataclass(answer) and '"relevance"' in answer.to_json()
