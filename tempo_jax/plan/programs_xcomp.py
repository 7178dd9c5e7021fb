"""XComp's programs between frames and an answer, as abstract programs: the jitted steps that the engine
calls.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from tempo_jax.models.config import XCompConfig
from tempo_jax.models.presets import PRESETS
from tempo_jax.plan import abstract
from tempo_jax.plan.abstract import Program
from tempo_jax.runtime import buckets
from tempo_jax.runtime.placement import SEGMENT_AXES
from tempo_jax.xcomp import cost, steps
from tempo_jax.xcomp.frame_selection import LOCAL, Question, chunk_frames, chunk_starts
from tempo_jax.xcomp.frames import FRAME_BUCKETS
from tempo_jax.xcomp.layout import FRAME_GROUP
from tempo_jax.xcomp.token_compression import DropSchedule, RowCapacity, make_schedule

# Assumed tokens of text: of the system prompt, and of a time message and a short question.
PREFIX_TOKENS, SUFFIX_TOKENS = 16, 96


def programs(config: ConfigDict, mesh: jax.sharding.Mesh) -> Iterator[Program]:
    """Yields vision chunk, scoring chunk (if frames exceed the budget), prefill, and decode step.

    Clips are encoded once per alignment that scoring needs, and the selected ones again.
    """
    model = abstract.model(PRESETS[config.model], config.dtype, mesh)
    for program in _programs(config, model, mesh):
        yield program._replace(resident_bytes=abstract.resident_weight_bytes(model, program.args))


def _programs(config: ConfigDict, model, mesh) -> Iterator[Program]:
    ask, preset = config.ask, PRESETS[config.model]
    sampled = ask.frames // FRAME_GROUP * FRAME_GROUP
    kept = min(sampled, ask.budget // preset.frame_tokens // FRAME_GROUP * FRAME_GROUP)
    starts = chunk_starts(sampled, ask.repeats) if kept < sampled else []
    alignments = len({start % preset.clip_frames for start in starts})
    yield _vision(config, preset, model, mesh, alignments * sampled + kept)
    suffix = buckets.round_up_to(SUFFIX_TOKENS, buckets.PROMPT_ALIGNMENT)
    prompt = steps.Prompt(
        abstract.array(mesh, (PREFIX_TOKENS,), jnp.int32),
        abstract.array(mesh, (suffix,), jnp.int32),
        abstract.array(mesh, (), jnp.int32),
    )
    if starts:
        yield _scoring(preset, model, mesh, prompt, sampled, len(starts))
    yield from _llm(config, preset, model, mesh, prompt, kept)


def _visual_tokens(preset: XCompConfig, model, mesh, frames: int):
    rows = buckets.pick_bucket(frames, FRAME_BUCKETS) * preset.frame_tokens
    return abstract.array(mesh, (rows, preset.llm.hidden_size), model.llm.embed.embedding.dtype)


def _schedule(preset: XCompConfig) -> DropSchedule:
    return make_schedule(preset.compression, preset.llm.num_layers, preset.frame_tokens)


def _vision(config, preset: XCompConfig, model, mesh, frames: int) -> Program:
    size, shards = preset.vision.image_size, mesh.size
    clips_of_8 = max(1, config.ask.chunk_segments // 2)  # as tempo_jax.load
    clips = clips_of_8 * (FRAME_GROUP // preset.clip_frames) * shards
    pixels = abstract.array(mesh, (clips, preset.clip_frames, size, size, 3), jnp.uint8, SEGMENT_AXES)
    buffer = _visual_tokens(preset, model, mesh, config.ask.frames)
    args = (model, buffer, pixels, abstract.array(mesh, (), jnp.int32))
    flops = clips * sum(cost.vision_flops(preset.vision, preset.clip_frames))
    tokens = clips * preset.clip_frames * preset.frame_tokens
    width = preset.llm.hidden_size
    flops += 2.0 * tokens * (preset.vision.hidden_size + width) * width
    runs = frames / (clips * preset.clip_frames)
    return Program("vision chunk", steps.encode_frames, args, {}, flops, tokens, runs)


def _scoring(preset: XCompConfig, model, mesh, prompt: steps.Prompt, sampled: int, runs: int) -> Program:
    """The LLM's layers up to the last scoring one; the attention that scores is not counted."""
    frames, layers = chunk_frames(sampled, LOCAL), range(*preset.score_layers)
    scalar = abstract.array(mesh, (), jnp.int32)
    buffer, question = _visual_tokens(preset, model, mesh, sampled), Question(scalar, scalar, scalar)
    args = (model, buffer, scalar, scalar, prompt, question)
    options = {
        "frames": frames,
        "schedule": _schedule(preset),
        "layers": layers,
        "windows": LOCAL,
        "causal": True,
    }
    text_tokens = prompt.prefix_P.shape[0] + prompt.suffix_Q.shape[0]
    flops = cost.prefill_flops(preset, text_tokens, frames, layers=layers[-1])
    return Program("scoring chunk", steps.score, args, options, flops, frames * preset.frame_tokens, runs)


def _llm(config, preset: XCompConfig, model, mesh, prompt: steps.Prompt, kept: int) -> Iterator[Program]:
    """Prefill in the bucket of the kept frames, then one decode step."""
    text_tokens = prompt.prefix_P.shape[0] + prompt.suffix_Q.shape[0]
    row_capacity = RowCapacity(text_tokens, buckets.pick_bucket(kept, FRAME_BUCKETS))
    schedule = _schedule(preset)
    scalar = abstract.array(mesh, (), jnp.int32)
    options = {"greedy": True, "eos": preset.eos_ids}
    capacity = buckets.pick_bucket(config.ask.new_tokens, buckets.NEW_TOKEN_BUCKETS)
    sizes = options | {"row_capacity": row_capacity, "schedule": schedule, "capacity": capacity}
    buffer = _visual_tokens(preset, model, mesh, kept)
    args = (model, buffer, scalar, prompt, abstract.sampling_params(mesh, repetition_penalty=True))
    flops = cost.prefill_flops(preset, text_tokens, row_capacity.frames)
    tokens = row_capacity.length(preset.frame_tokens)
    yield Program("prefill", steps.prefill, args, sizes, flops, tokens, 1)

    prefilled = jax.eval_shape(functools.partial(steps.prefill, **sizes), *args)
    prompt_tokens = int(np.mean([row_capacity.length(count) for count in schedule.layer_tokens]))
    yield abstract.decode_step(
        mesh, model.llm, prefilled.state, prompt_tokens, config.ask.new_tokens, config.ask.answers, **options
    )
