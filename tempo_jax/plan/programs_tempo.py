"""Tempo's programs between frames and an answer, as abstract programs: the jitted steps that the engine
calls.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tempo_jax.models.config import TempoConfig
from tempo_jax.models.presets import PRESETS
from tempo_jax.models.qwen3_vl import PromptBatch, VisionOutput
from tempo_jax.models.tempo import projector_layers
from tempo_jax.models.vision import grid_of, output_tokens
from tempo_jax.plan import abstract
from tempo_jax.plan.abstract import Program
from tempo_jax.runtime import buckets
from tempo_jax.runtime.placement import SEGMENT_AXES
from tempo_jax.tasks import flops
from tempo_jax.tempo import steps

# Assumed tokens of text around the video in a compressor prompt, and of a short question.
TEXT_TOKENS = 64


def programs(config: ConfigDict, mesh: jax.sharding.Mesh) -> Iterator[Program]:
    """Yields vision chunk, compressor chunk (prefix and question), prefill, and decode step.

    KV caches are split by key/value heads over the tensor axis, where it divides them. Both models stay in
    HBM all the time.
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

    frames_shape = (chunk, preset.video.segment_frames, *ask.size, 3)
    frames = abstract.array(mesh, frames_shape, jnp.uint8, SEGMENT_AXES)
    vision_flops = sum(flops.vision(preset.compressor.vision, frames.shape))
    grid = grid_of(*ask.size, preset.compressor.vision)
    slices = preset.video.segment_frames // preset.compressor.vision.temporal_patch_size
    tokens = chunk * slices * output_tokens(grid, preset.compressor.vision)
    args = (compressor, frames)
    yield Program("vision chunk", steps.encode_frames, args, {}, vision_flops, tokens, chunks)

    visual = _sharded_by_segment(mesh, jax.eval_shape(steps.encode_frames, compressor, frames))
    length = buckets.round_up_to(tokens // chunk + TEXT_TOKENS, buckets.PROMPT_ALIGNMENT)
    ids = abstract.array(mesh, (chunk, length), jnp.int32)
    prompts = PromptBatch(ids, ids, abstract.array(mesh, (3, chunk, length), jnp.int32))
    prefix_flops = sum(flops.decoder(text, chunk, length))
    args = (compressor, visual, prompts)
    yield Program("compressor prefix", steps.prefill_video, args, {}, prefix_flops, chunk * length, chunks)

    padded = buckets.round_up_to(buckets.pick_bucket(segments, buckets.SEGMENT_BUCKETS), chunk)
    dtype = model.llm.embed.embedding.dtype
    memory = steps.SegmentMemory(
        abstract.array(mesh, (padded, preset.memory_tokens, text.hidden_size), dtype),
        abstract.array(mesh, (padded,), jnp.float32),
    )
    prefix = jax.tree.map(
        lambda x: abstract.array(mesh, x.shape, x.dtype, SEGMENT_AXES),
        jax.eval_shape(steps.prefill_video, *args),
    )
    question_length = buckets.round_up_to(TEXT_TOKENS + preset.memory_tokens, buckets.PROMPT_ALIGNMENT)
    per_segment, scalar = abstract.array(mesh, (chunk,), jnp.int32), abstract.array(mesh, (), jnp.int32)
    question = abstract.array(mesh, (question_length - preset.memory_tokens,), jnp.int32)
    args = (compressor, memory, prefix, per_segment, per_segment, question, scalar, scalar)
    question_flops = abstract.extend_flops(text, chunk, length, question_length)
    tokens = chunk * question_length
    yield Program("compressor question", steps.compress_chunk, args, {}, question_flops, tokens, chunks)

    yield from _llm(config, preset, model, mesh, memory)


def _llm(config, preset: TempoConfig, model, mesh, memory: steps.SegmentMemory) -> Iterator[Program]:
    """Prefill in the bucket of the budget, then one decode step."""
    ask, padded_segments = config.ask, memory.memory_SKD.shape[0]
    tags = abstract.array(mesh, (padded_segments, buckets.TAG_TOKENS), jnp.int32)
    scalar = abstract.array(mesh, (), jnp.int32)
    text = abstract.array(mesh, (buckets.PROMPT_ALIGNMENT,), jnp.int32)
    per_segment = abstract.array(mesh, (padded_segments,), jnp.int32)
    allocation = steps.TokenAllocation(memory.memory_SKD, per_segment, scalar, scalar)
    segments = -(-ask.frames // preset.video.segment_frames)
    kept = min(ask.budget, segments * preset.memory_tokens)
    prompt_tokens = kept + segments * (buckets.TAG_TOKENS - 3) + 2 * TEXT_TOKENS
    bucket = buckets.pick_bucket(prompt_tokens, buckets.PREFILL_BUCKETS)
    capacity = buckets.pick_bucket(ask.new_tokens, buckets.NEW_TOKEN_BUCKETS)
    options = {"greedy": True, "eos": preset.eos_ids}
    sizes = options | {"bucket": bucket, "capacity": capacity}
    args = (model, allocation, steps.Prompt(text, text, tags), abstract.sampling_params(mesh))
    prefill_flops = sum(flops.decoder(preset.llm, 1, bucket)) + _projector_flops(preset, padded_segments)
    yield Program("prefill", steps.prefill, args, sizes, prefill_flops, bucket, 1)

    prefilled = jax.eval_shape(functools.partial(steps.prefill, **sizes), *args)
    yield abstract.decode_step(
        mesh, model.llm, prefilled.state, bucket, ask.new_tokens, ask.answers, **options
    )


def _sharded_by_segment(mesh, visual: VisionOutput) -> VisionOutput:
    """Visual tokens split over the axes of segments, as encode_frames returns them."""
    return VisionOutput(
        abstract.on_mesh(mesh, visual.tokens_SVD, SEGMENT_AXES),
        abstract.on_mesh(mesh, visual.deepstack_FSVD, None, SEGMENT_AXES),
    )


def _projector_flops(preset: TempoConfig, segments: int) -> float:
    inner, outer = preset.compressor.text.hidden_size, preset.llm.hidden_size
    layers = projector_layers(preset.projector)
    return 2.0 * segments * preset.memory_tokens * sum((inner if i == 0 else outer) * outer for i in layers)
