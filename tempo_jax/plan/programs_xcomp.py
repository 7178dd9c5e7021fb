"""XComp's programs between frames and an answer as shapes on a mesh: the very ones that the engine calls."""

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
from tempo_jax.xcomp import cost, frame_selection, token_compression
from tempo_jax.xcomp import steps as engine
from tempo_jax.xcomp import token_compression as schedule
from tempo_jax.xcomp.frame_selection import Question
from tempo_jax.xcomp.frames import FRAME_BUCKETS

# Tokens of text that no config says: assumptions for the system prompt, and for a time message and a
# question of a sentence or two.
PREFIX, SUFFIX = 16, 96


def programs(config: ConfigDict, mesh: jax.sharding.Mesh) -> Iterator[Program]:
    """Vision chunk, scoring chunk (where there are more frames than the budget holds), prefill, decode step.

    Clips are seen once per alignment that scoring needs and once more as they are kept.
    """
    model = abstract.model(PRESETS[config.model], config.dtype, mesh)
    for program in _programs(config, model, mesh):
        yield program._replace(resident_bytes=abstract.resident_weight_bytes(model, program.args))


def _programs(config: ConfigDict, model, mesh) -> Iterator[Program]:
    ask, preset = config.ask, PRESETS[config.model]
    sampled = ask.frames // frame_selection.FRAME_GROUP * frame_selection.FRAME_GROUP
    kept = min(
        sampled,
        ask.budget // preset.frame_tokens // frame_selection.FRAME_GROUP * frame_selection.FRAME_GROUP,
    )
    starts = frame_selection.chunk_starts(sampled, ask.repeats) if kept < sampled else []
    alignments = len({start % preset.clip_frames for start in starts})
    yield _vision(config, preset, model, mesh, alignments * sampled + kept)
    suffix = buckets.round_up_to(SUFFIX, buckets.PROMPT_ALIGNMENT)
    scalar = abstract.array(mesh, (), jnp.int32)
    text = (abstract.array(mesh, (PREFIX,), jnp.int32), abstract.array(mesh, (suffix,), jnp.int32), scalar)
    if starts:
        yield _scoring(preset, model, mesh, engine.Prompt(*text), sampled, len(starts))
    yield from _llm(config, preset, model, mesh, engine.Prompt(*text), kept)


def _pool(preset: XCompConfig, model, mesh, frames: int):
    bucket = buckets.pick_bucket(frames, FRAME_BUCKETS) * preset.frame_tokens
    return abstract.array(mesh, (bucket, preset.llm.hidden_size), model.llm.embed.embedding.dtype)


def _vision(config, preset: XCompConfig, model, mesh, frames: int) -> Program:
    size, shards = preset.vision.image_size, mesh.size
    clips = (
        max(1, config.ask.chunk_segments // 2) * (frame_selection.FRAME_GROUP // preset.clip_frames) * shards
    )  # as load
    pixels = abstract.array(mesh, (clips, preset.clip_frames, size, size, 3), jnp.uint8, SEGMENT_AXES)
    args = (model, _pool(preset, model, mesh, config.ask.frames), pixels, abstract.array(mesh, (), jnp.int32))
    flops = clips * sum(cost.vision_flops(preset.vision, preset.clip_frames))
    tokens = clips * preset.clip_frames * preset.frame_tokens
    width = preset.llm.hidden_size
    flops += 2.0 * tokens * (preset.vision.hidden_size + width) * width
    return Program(
        "vision chunk", engine.encode_frames, args, {}, flops, tokens, frames / (clips * preset.clip_frames)
    )


def _scoring(preset: XCompConfig, model, mesh, prompt: engine.Prompt, sampled: int, runs: int) -> Program:
    """The LLM's layers up to the last one that scores; attention of the question is not counted."""
    frames, layers = frame_selection.chunk_frames(sampled, frame_selection.LOCAL), range(*preset.score_layers)
    plan = schedule.make_schedule(preset.compression, preset.llm.num_layers, preset.frame_tokens)
    scalar = abstract.array(mesh, (), jnp.int32)
    args = (
        model, _pool(preset, model, mesh, sampled), scalar, scalar, prompt, Question(scalar, scalar, scalar)
    )  # fmt: skip
    options = {
        "frames": frames, "plan": plan, "layers": layers, "windows": frame_selection.LOCAL, "causal": True,
    }  # fmt: skip
    text = prompt.prefix_P.shape[0] + prompt.suffix_Q.shape[0]
    flops = cost.prefill_flops(preset, text, frames, layers=layers[-1])
    return Program("scoring chunk", engine.score, args, options, flops, frames * preset.frame_tokens, runs)


def _llm(config, preset: XCompConfig, model, mesh, prompt: engine.Prompt, kept: int) -> Iterator[Program]:
    """Prefill of the kept frames' bucket, then one step of decoding."""
    text = prompt.prefix_P.shape[0] + prompt.suffix_Q.shape[0]
    room = token_compression.RowCapacity(text, buckets.pick_bucket(kept, FRAME_BUCKETS))
    plan = schedule.make_schedule(preset.compression, preset.llm.num_layers, preset.frame_tokens)
    scalar = abstract.array(mesh, (), jnp.int32)
    options = {"greedy": True, "eos": preset.eos_ids}
    capacity = buckets.pick_bucket(config.ask.new_tokens, buckets.NEW_TOKEN_BUCKETS)
    sizes = options | {"room": room, "plan": plan, "capacity": capacity}
    args = (model, _pool(preset, model, mesh, kept), scalar, prompt, abstract.sampling_params(mesh))
    flops = cost.prefill_flops(preset, text, room.frames)
    tokens = room.length(preset.frame_tokens)
    yield Program("prefill", engine.prefill, args, sizes, flops, tokens, 1)

    prefilled = jax.eval_shape(functools.partial(engine.prefill, **sizes), *args)
    seen = int(np.mean([room.length(count) for count in plan.tokens[1:]]))
    penalty = {"repetition_penalty": abstract.array(mesh, (), jnp.float32)}
    yield abstract.decode_step(
        mesh, model.llm, prefilled.state, seen, config.ask.new_tokens, **options, **penalty
    )
