"""`Clip`: a video opened with XComp, and the path of a question through the jitted steps."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.prompts import Message
from tempo_jax.runtime import buckets, generate
from tempo_jax.runtime.results import Answer, Inspection
from tempo_jax.runtime.session import (
    PrefilledRequest,
    Progress,
    System,
    VideoSession,
    answer_text,
    timings,
    validate_question,
)
from tempo_jax.xcomp import frame_selection, layout, steps
from tempo_jax.xcomp.frames import Frames, frame_scores
from tempo_jax.xcomp.options import SCORERS, FrameSegment, Options
from tempo_jax.xcomp.token_compression import RowCapacity


@dataclasses.dataclass(frozen=True, kw_only=True)
class XCompRequest(PrefilledRequest):
    """A prefilled request of XComp's.

    Attributes:
      visual_tokens: Of the selected frames, then padding.
      selected_N: Indices of the selected frames, in time order.
      scores_F: Scores of all frames; None where they were not scored.
    """

    visual_tokens: Any
    selected_N: np.ndarray
    scores_F: np.ndarray | None


class Clip(VideoSession):
    """A video opened by `XComp.open`. It caches frames on the host (0.6 MB each) and visual tokens on the
    device.

    Attributes:
      source: The video, from `tempo_jax.video.open_video`.
      frames: Its sampled frames.
      last_answer: The Answer of the latest question, also after `stream`.
    """

    options = Options

    def __init__(self, system: System, source: Any, *, keep: bool, min_frames: int = 0):
        super().__init__(system)
        self.source = source
        self.frames = Frames(system, source, min_frames=min_frames)
        self._keep = keep
        self._scored: tuple | None = None  # what the scores depend on, and the scores

    @property
    def is_image(self) -> bool:
        return self.source.kind == "image"

    @property
    def decode_wait_seconds(self) -> float:
        """Time spent on decoding."""
        return self.frames.seconds

    @property
    def message(self) -> str | None:
        """The prompt's sentence about the video."""
        if self.is_image:
            return None
        return layout.time_message(self.source.duration_seconds, self.frames.count)

    def encode(self, progress: Progress = None) -> None:
        """Decodes and encodes the video unless it is cached."""
        with self.system.place():
            jax.block_until_ready(self.frames.visual_tokens(0, progress))

    def release(self) -> None:
        """Drops what is cached of the video; a further question decodes it again."""
        self.frames.clear()
        self._scored = None

    def compile(self) -> None:
        """Compiles what depends on the size of the video's frames."""
        self.frames.compile()

    def scores(self, question: str, *, progress: Progress = None, **options: Any) -> np.ndarray:
        """Scores of all frames, float64 [F], however few there are (docs/reference/xcomp.md#frame-scores)."""
        options = Options(**options)
        question, _ = validate_question(question)
        if SCORERS[options.strategy] is None:
            raise TempoError(f"The strategy {options.strategy} scores nothing: use local or global.")
        text = layout.prompt_text(self.system.tokenizer, question, self.message)
        with self.system.place():
            return self._scores(question, text, _padded_prompt(text), options, 0, progress)

    def inspect(self, question: str, **options: Any) -> Inspection:
        """Returns intermediate values; `memory` has the selected frames' visual tokens."""
        request = self.prefill(question, Options(**options))
        count, tokens, kept = self.frames.count, self.system.config.frame_tokens, len(request.selected_N)
        allocation = np.where(np.isin(np.arange(count), request.selected_N), tokens, 0).astype(np.int32)
        scores = np.full(count, np.nan) if request.scores_F is None else request.scores_F
        return Inspection(
            relevance=scores.astype(np.float32),
            allocation=allocation[:0] if self.is_image else allocation,
            memory=np.asarray(request.visual_tokens)[: kept * tokens].reshape(kept, tokens, -1),
            sequence_length=request.prompt_tokens,
            logits=np.asarray(request.prefilled.logits_BV)[0],
            warnings=request.warnings,
        )

    def prefill(
        self,
        question: str,
        options: Options,
        progress: Progress = None,
        conversation: Sequence[Message] = (),
    ) -> XCompRequest:
        start_time, system, config = time.perf_counter(), self.system, self.system.config
        question, warnings = validate_question(question)
        text = layout.prompt_text(system.tokenizer, question, self.message, conversation)
        text_tokens = len(text.prefix) + len(text.suffix)
        max_frames, lowered = self._fit_frames_to_context(options, text_tokens)
        warnings += [lowered] if lowered else []
        sampling = generate.SamplingParams(
            jnp.float32(0 if options.greedy else options.temperature),
            jnp.float32(options.top_p),
            jax.random.key(options.seed),
            jnp.float32(options.repetition_penalty),
        )
        prompt = _padded_prompt(text)
        with system.place():
            scores = self._scores(question, text, prompt, options, max_frames, progress)
            selected = self._select(scores, max_frames)
            visual_tokens = self.frames.encode(selected, progress)
            allocation_time = time.perf_counter()
            warnings += dict.fromkeys(self.source.warnings)
            row_capacity = RowCapacity(
                len(prompt.prefix_P) + len(prompt.suffix_Q),
                1 if self.is_image else self.frames.bucket(len(selected)),
            )
            prefilled = steps.prefill(
                system.model,
                visual_tokens,
                jnp.int32(len(selected)),
                system.place.put(prompt),
                sampling,
                row_capacity=row_capacity,
                schedule=system.drop_schedule(options),
                capacity=buckets.pick_bucket(options.max_new_tokens, buckets.NEW_TOKEN_BUCKETS),
                greedy=options.greedy,
                eos=config.eos_ids,
            )
        requested = options.budget if options.compress and not lowered else None
        budget = max_frames * config.frame_tokens if requested is None else requested
        if not self._keep:
            self.frames.clear()
        return XCompRequest(
            options=options,
            prefilled=prefilled,
            budget=int(budget),
            prompt_tokens=text_tokens + len(selected) * config.frame_tokens,
            warnings=tuple(warnings),
            start_time=start_time,
            allocation_time=allocation_time,
            visual_tokens=visual_tokens,
            selected_N=selected,
            scores_F=scores,
        )

    def _fit_frames_to_context(self, options: Options, text_tokens: int) -> tuple[int, str | None]:
        """Number of frames to keep, and a warning if the context holds fewer than requested."""
        config, sampled = self.system.config, self.frames.count
        frame_tokens = config.frame_tokens
        capacity = (config.context_length - text_tokens - options.max_new_tokens) // frame_tokens
        minimum = 1 if self.is_image else min(frame_selection.FRAME_GROUP, sampled)
        if capacity < minimum:
            raise TempoError(
                f"The question ({text_tokens} tokens with the prompt's frame) and {options.max_new_tokens} "
                f"new tokens leave no room for a video in a context of {config.context_length}: shorten the "
                "question, or lower max_new_tokens."
            )
        wanted = options.frame_budget(sampled, frame_tokens)
        if wanted < minimum and options.compress:
            raise TempoError(
                f"A budget of {options.budget} visual tokens holds {wanted} frames, but they come in eights "
                f"of {frame_tokens} tokens each: give at least {minimum * frame_tokens}."
            )
        if min(wanted, sampled) <= capacity:
            if self.is_image:
                return sampled, None
            return frame_selection.round_to_frame_groups(sampled, wanted), None
        if not options.compress:
            raise TempoError(
                f"Without compression the video takes {sampled * frame_tokens} tokens but the "
                f"context of {config.context_length} has room for {capacity * frame_tokens}: turn "
                "compression on or sample fewer frames (max_frames)."
            )
        lowered = frame_selection.round_to_frame_groups(sampled, capacity)
        return lowered, (
            f"The budget is lowered from {min(wanted, sampled) * frame_tokens} to "
            f"{lowered * frame_tokens} visual tokens to fit a context of {config.context_length}."
        )

    def _scores(
        self,
        question: str,
        text: layout.PromptText,
        prompt: steps.Prompt,
        options: Options,
        max_frames: int,
        progress: Progress,
    ) -> np.ndarray | None:
        """The frames' scores; None where all frames are kept, or are selected regardless of the question."""
        windows = SCORERS[options.strategy]
        if max_frames >= self.frames.count or windows is None:
            return None
        key = (
            tuple(text.prefix),
            tuple(text.suffix),
            windows,
            options.repeats,
            options.causal_scoring,
            options.query_skip,
            options.lp_comp,
        )
        if self._scored is None or self._scored[0] != key:
            scores = frame_scores(self.system, self.frames, text, prompt, options, windows, progress)
            self._scored = (key, scores) if self._keep else None
            return scores
        return self._scored[1]

    def _select(self, scores: np.ndarray | None, max_frames: int) -> np.ndarray:
        count = self.frames.count
        if max_frames >= count:
            return np.arange(count)
        if scores is None:  # evenly spaced
            return np.arange(max_frames) * count // max_frames
        return frame_selection.top_frames(scores, max_frames)

    def result(self, request: XCompRequest, ids: np.ndarray, first_token_time: float) -> Answer:
        system, tokens = self.system, self.system.config.frame_tokens
        visual_tokens = len(request.selected_N) * tokens
        return Answer(
            text=answer_text(system.tokenizer, ids, system.config.eos_ids),
            token_ids=[int(i) for i in ids],
            segments=self._segments(request),
            usage={
                "frames": self.frames.count,
                "segments": 1 if self.is_image else self.frames.count,
                "budget": request.budget,
                "visual_tokens": visual_tokens,
                "tokens_per_frame": visual_tokens / self.frames.count,
                "prompt_tokens": request.prompt_tokens,
                "new_tokens": len(ids),
                "frames_kept": len(request.selected_N),
            },
            timings=timings(request, self.frames.seconds, first_token_time),
            warnings=request.warnings,
            token_limits=(0, tokens),
        )

    def _frame_times(self) -> np.ndarray:
        """The start of each frame and the end of the last, in seconds, float64 [frames + 1]."""
        count, source = self.frames.count, self.source
        if not source.own_times:
            span = source.duration_seconds / count
            return source.shift_seconds + np.arange(count + 1) * span
        starts = source.seconds[self.frames.sample_order]
        end = max(float(starts[-1]), source.start_seconds + source.duration_seconds)
        return np.append(starts, end)

    def _segments(self, request: XCompRequest) -> tuple[FrameSegment, ...]:
        if self.is_image:
            return ()
        count, tokens = self.frames.count, self.system.config.frame_tokens
        starts = self._frame_times()
        scores = np.full(count, np.nan) if request.scores_F is None else request.scores_F
        best = max(float(np.max(scores)), 1e-30)
        kept = np.isin(np.arange(count), request.selected_N)
        return tuple(
            FrameSegment(
                index=i,
                start_seconds=float(starts[i]),
                end_seconds=float(starts[i + 1]),
                relevance=float(scores[i]) / best,
                tokens=tokens if kept[i] else 0,
                frame=int(self.frames.frame_indices[i]),
                score=float(scores[i]),
            )
            for i in range(count)
        )


def _padded_prompt(text: layout.PromptText) -> steps.Prompt:
    suffix = np.asarray(text.suffix, np.int32)
    padding = buckets.round_up_to(len(suffix), buckets.PROMPT_ALIGNMENT) - len(suffix)
    return steps.Prompt(
        np.asarray(text.prefix, np.int32), np.pad(suffix, (0, padding)), np.int32(len(suffix))
    )
