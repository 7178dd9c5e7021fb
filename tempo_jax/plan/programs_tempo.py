"""Tempo's programs between frames and an answer as shapes on a mesh: the very ones that the engine calls."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tempo_jax.models.config import TempoConfig
from tempo_jax.models.presets import PRESETS
from tempo_jax.models.qwen3_vl import PromptBatch
from tempo_jax.models.tempo import projector_layers
from tempo_jax.models.vision import grid_of, output_tokens
from tempo_jax.plan import abstract
from tempo_jax.plan.abstract import Program
from tempo_jax.runtime import buckets
from tempo_jax.runtime.placement import SEGMENT_AXES
from tempo_jax.tasks import flops
from tempo_jax.tempo import steps as engine

# Tokens of text that no config says: an assumption for a question of a sentence or two.
TEXT = 64  # around the video in a compressor row, and of a question


def programs(config: ConfigDict, mesh: jax.sharding.Mesh) -> Iterator[Program]:
    """Vision chunk, compressor chunk (prefix and question), prefill, decode step; in this order.

    Caches are taken to lie by key/value head over the tensor axis, where it divides them. The engine holds
    both models all the time.
    """
    model = abstract.model(PRESETS[config.model], config.dtype, mesh)
    for program in _programs(config, model, mesh):
        yield program._replace(resident_bytes=abstract.resident_weight_bytes(model, program.args))


def _programs(config: ConfigDict, model: Any, mesh) -> Iterator[Program]:
    ask, preset = config.ask, PRESETS[config.model]
    shards = mesh.size
    segments = -(-ask.frames // preset.video.segment_frames)
    chunk = min(ask.chunk_segments * shards, buckets.round_up_to(buckets.next_power_of_two(segments), shards))
    chunks = -(-segments // chunk)
    compressor, text = model.compressor, preset.compressor.text

    frames = abstract.array(mesh, (chunk, preset.video.segment_frames, *ask.size, 3), jnp.uint8, SEGMENT_AXES)
    vision = sum(flops.vision(preset.compressor.vision, frames.shape))
    grid = grid_of(*ask.size, preset.compressor.vision)
    slices = preset.video.segment_frames // preset.compressor.vision.temporal_patch_size
    tokens = chunk * slices * output_tokens(grid, preset.compressor.vision)
    yield Program("vision chunk", engine.encode_frames, (compressor, frames), {}, vision, tokens, chunks)

    visual = _spread(mesh, jax.eval_shape(engine.encode_frames, compressor, frames))
    length = buckets.round_up_to(tokens // chunk + TEXT, buckets.PROMPT_ALIGNMENT)
    row = abstract.array(mesh, (chunk, length), jnp.int32)
    rows = PromptBatch(row, row, abstract.array(mesh, (3, chunk, length), jnp.int32))
    reading = sum(flops.decoder(text, chunk, length))
    args = (compressor, visual, rows)
    yield Program("compressor prefix", engine.prefill_video, args, {}, reading, chunk * length, chunks)

    padded = buckets.round_up_to(buckets.pick_bucket(segments, buckets.SEGMENT_BUCKETS), chunk)
    dtype = model.llm.embed.embedding.dtype
    bank = engine.SegmentMemory(
        abstract.array(mesh, (padded, preset.memory_tokens, text.hidden_size), dtype),
        abstract.array(mesh, (padded,), jnp.float32),
    )
    prefix = jax.tree.map(
        lambda x: abstract.array(mesh, x.shape, x.dtype, SEGMENT_AXES),
        jax.eval_shape(engine.prefill_video, *args),
    )
    asked = buckets.round_up_to(TEXT + preset.memory_tokens, buckets.PROMPT_ALIGNMENT)
    place, scalar = abstract.array(mesh, (chunk,), jnp.int32), abstract.array(mesh, (), jnp.int32)
    question = abstract.array(mesh, (asked - preset.memory_tokens,), jnp.int32)
    args = (compressor, bank, prefix, place, place, question, scalar, scalar)
    answering = abstract.extend_flops(text, chunk, length, asked)
    yield Program("compressor question", engine.compress_chunk, args, {}, answering, chunk * asked, chunks)

    yield from _llm(config, preset, model, mesh, bank)


def _llm(config, preset: TempoConfig, model, mesh, bank) -> Iterator[Program]:
    """Prefill of the budget's bucket, then one step of decoding."""
    ask, segments = config.ask, bank.memory_SKD.shape[0]
    tags = abstract.array(mesh, (segments, buckets.TAG_TOKENS), jnp.int32)
    scalar, text = (
        abstract.array(mesh, (), jnp.int32),
        abstract.array(mesh, (buckets.PROMPT_ALIGNMENT,), jnp.int32),
    )
    allocation = abstract.array(mesh, (segments,), jnp.int32)
    selection = engine.TokenAllocation(bank.memory_SKD, allocation, scalar, scalar)
    real = -(-ask.frames // preset.video.segment_frames)
    kept = min(ask.budget, real * preset.memory_tokens)
    bucket = buckets.pick_bucket(kept + real * (buckets.TAG_TOKENS - 3) + 2 * TEXT, buckets.PREFILL_BUCKETS)
    capacity = buckets.pick_bucket(ask.new_tokens, buckets.NEW_TOKEN_BUCKETS)
    options = {"greedy": True, "eos": preset.eos_ids}
    sizes = options | {"bucket": bucket, "capacity": capacity}
    args = (model, selection, engine.Prompt(text, text, tags), abstract.sampling_params(mesh))
    reading = sum(flops.decoder(preset.llm, 1, bucket)) + _projector(preset, segments)
    yield Program("prefill", engine.prefill, args, sizes, reading, bucket, 1)

    prefilled = jax.eval_shape(functools.partial(engine.prefill, **sizes), *args)
    yield abstract.decode_step(mesh, model.llm, prefilled.state, bucket, ask.new_tokens, **options)


def _spread(mesh, visual) -> Any:
    """Visual tokens over the segments' axes, as see() leaves them."""
    return type(visual)(
        abstract.on_mesh(mesh, visual.tokens_SVD, SEGMENT_AXES),
        abstract.on_mesh(mesh, visual.deepstack_FSVD, None, SEGMENT_AXES),
    )


def _projector(preset: TempoConfig, segments: int) -> float:
    inner, outer = preset.compressor.text.hidden_size, preset.llm.hidden_size
    places = projector_layers(preset.projector)
    return 2.0 * segments * preset.memory_tokens * sum((inner if p == 0 else outer) * outer for p in places)
