"""`Clip`: one opened video, and the way a question about it takes through XComp's jitted steps."""

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
from tempo_jax.runtime.session import Progress, System, VideoSession, answer_text, timings, validate_question
from tempo_jax.xcomp import frame_selection, layout, steps
from tempo_jax.xcomp.frames import Frames, frame_scores
from tempo_jax.xcomp.options import SCORERS, FrameSegment, Options
from tempo_jax.xcomp.token_compression import RowCapacity


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question whose prompt the LLM has read."""

    options: Options
    text: layout.PromptText
    pool: Any  # visual tokens of the frames that stay, then padding
    selected_N: np.ndarray  # sampled frames that stay, in time order
    scores_F: np.ndarray | None
    prefilled: steps.Prefilled
    sampling: generate.SamplingParams
    budget: int  # visual tokens
    warnings: tuple[str, ...]
    started: float  # time.perf_counter() when asked
    compressed: float  # … and when the frames were chosen


class Clip(VideoSession):
    """An opened video of XComp's, made by `XComp.open`.

    What it holds on to: the frames on the host (0.6 MB each) and the visual tokens on the device.
    """

    options = Options

    def __init__(self, system: System, source: Any, *, keep: bool, min_frames: int = 0):
        super().__init__(system)
        self.source = source
        self.frames = Frames(system, source, min_frames=min_frames)
        self._keep = keep
        self._scored: tuple | None = None  # what was asked and the frames' scores

    @property
    def is_image(self) -> bool:
        return self.source.kind == "image"

    @property
    def decode_wait_seconds(self) -> float:
        """Spent on reading and decoding."""
        return self.frames.seconds

    @property
    def message(self) -> str | None:
        """What the prompt says about the video."""
        if self.is_image:
            return None
        return layout.time_message(self.source.duration_seconds, self.frames.count)

    def encode(self, progress: Progress = None) -> None:
        """Decodes and encodes the video if the clip does not hold it yet."""
        with self.system.place():
            jax.block_until_ready(self.frames.visual_tokens(0, progress))

    def compile(self) -> None:
        """Compiles what depends on the size of the video's frames."""
        self.frames.compile()

    def scores(self, question: str, *, progress: Progress = None, **options: Any) -> np.ndarray:
        """What the question pays each frame, float64 [F], however few there are (xcomp §3.4)."""
        chosen = Options(**options)
        question, _ = validate_question(question)
        if SCORERS[chosen.strategy] is None:
            raise TempoError(f"The strategy {chosen.strategy} scores nothing: use local or global.")
        text = layout.prompt_text(self.system.tokenizer, question, self.message)
        with self.system.place():
            return self._scores(question, text, _padded(text), chosen, 0, progress)

    def inspect(self, question: str, **options: Any) -> Inspection:
        """The numbers between video and answer; memory holds the visual tokens of the frames that stay."""
        asked = self.prefill(question, Options(**options))
        count, tokens, kept = self.frames.count, self.system.config.frame_tokens, len(asked.selected_N)
        allocation = np.where(np.isin(np.arange(count), asked.selected_N), tokens, 0).astype(np.int32)
        scores = np.full(count, np.nan) if asked.scores_F is None else asked.scores_F
        return Inspection(
            relevance=scores.astype(np.float32),
            allocation=allocation[:0] if self.is_image else allocation,
            memory=np.asarray(asked.pool)[: kept * tokens].reshape(kept, tokens, -1),
            sequence_length=self._prompt_tokens(asked),
            logits=np.asarray(asked.prefilled.logits_BV)[0],
            warnings=asked.warnings,
        )

    def _prompt_tokens(self, asked: Asked) -> int:
        visual = len(asked.selected_N) * self.system.config.frame_tokens
        return len(asked.text.prefix) + visual + len(asked.text.suffix)

    def prefill(
        self,
        question: str,
        options: Options,
        progress: Progress = None,
        conversation: Sequence[Message] = (),
    ) -> Asked:
        """Everything up to the LLM's first logits."""
        started, system, config = time.perf_counter(), self.system, self.system.config
        question, warnings = validate_question(question)
        text = layout.prompt_text(system.tokenizer, question, self.message, conversation)
        wanted, lowered = self._affordable(options, len(text.prefix) + len(text.suffix))
        warnings += [lowered] if lowered else []
        key = jax.random.key(options.seed)
        sampling = generate.SamplingParams(
            jnp.float32(options.temperature or 1.0), jnp.float32(options.top_p), key
        )
        prompt = _padded(text)
        with system.place():
            scores = self._scores(question, text, prompt, options, wanted, progress)
            selected = self._selected(scores, wanted)
            pool = self.frames.encode(selected, progress)
            compressed = time.perf_counter()
            warnings += dict.fromkeys(self.source.warnings)
            room = RowCapacity(
                len(prompt.prefix_P) + len(prompt.suffix_Q),
                1 if self.is_image else self.frames.bucket(len(selected)),
            )
            prefilled = steps.prefill(
                system.model, pool, jnp.int32(len(selected)), system.place.put(prompt), sampling,
                room=room, plan=system.drop_schedule(options),
                capacity=buckets.pick_bucket(options.max_new_tokens, buckets.NEW_TOKEN_BUCKETS),
                greedy=options.greedy, eos=config.eos_ids,
            )  # fmt: skip
        asked_for = options.budget if options.compress and not lowered else None
        budget = wanted * config.frame_tokens if asked_for is None else asked_for
        if not self._keep:
            self.frames.clear()
        return Asked(
            options, text, pool, selected, scores, prefilled, sampling, int(budget), tuple(warnings), started,
            compressed,
        )  # fmt: skip

    def _affordable(self, options: Options, text_tokens: int) -> tuple[int, str | None]:
        """Frames that stay, and a sentence if the context holds fewer than asked for."""
        config, sampled = self.system.config, self.frames.count
        room = (config.context_length - text_tokens - options.max_new_tokens) // config.frame_tokens
        min_frames = 1 if self.is_image else min(frame_selection.FRAME_GROUP, sampled)
        if room < min_frames:
            raise TempoError(
                f"The question ({text_tokens} tokens with the prompt's frame) and {options.max_new_tokens} "
                f"new tokens leave no room for a video in a context of {config.context_length}: shorten the "
                "question, or lower max_new_tokens."
            )
        wanted = options.frame_budget(sampled, config.frame_tokens)
        if wanted < min_frames and options.compress:
            raise TempoError(
                f"A budget of {options.budget} visual tokens holds {wanted} frames, but they come in eights "
                f"of {config.frame_tokens} tokens each: give at least {min_frames * config.frame_tokens}."
            )
        if min(wanted, sampled) <= room:
            return sampled if self.is_image else frame_selection.round_to_frame_groups(sampled, wanted), None
        if not options.compress:
            raise TempoError(
                f"Without compression the video takes {sampled * config.frame_tokens} tokens but the "
                f"context of {config.context_length} has room for {room * config.frame_tokens}: turn "
                "compression on or sample fewer frames (max_frames)."
            )
        lowered = frame_selection.round_to_frame_groups(sampled, room)
        return lowered, (
            f"The budget is lowered from {min(wanted, sampled) * config.frame_tokens} to "
            f"{lowered * config.frame_tokens} visual tokens to fit a context of {config.context_length}."
        )

    def _scores(self, question, text, prompt, options: Options, wanted: int, progress) -> np.ndarray | None:
        """The frames' scores; None where nothing has to be chosen, or not by the question."""
        windows = SCORERS[options.strategy]
        if wanted >= self.frames.count or windows is None:
            return None
        asked = (
            *map(tuple, text[:2]), windows, options.repeats, options.causal_scoring, options.query_skip,
            options.lp_comp,
        )  # fmt: skip
        if self._scored is None or self._scored[0] != asked:
            found = frame_scores(self.system, self.frames, text, prompt, options, windows, progress)
            self._scored = (asked, found) if self._keep else None
            return found
        return self._scored[1]

    def _selected(self, scores: np.ndarray | None, wanted: int) -> np.ndarray:
        count = self.frames.count
        if wanted >= count:
            return np.arange(count)
        if scores is None:  # evenly spread
            return np.arange(wanted) * count // wanted
        return frame_selection.top_frames(scores, wanted)

    def decode_kwargs(self, options: Options) -> dict:
        """The repetition penalty, traced: another value compiles nothing."""
        return {"repetition_penalty": jnp.float32(options.repetition_penalty)}

    def result(self, asked: Asked, ids: np.ndarray, first_token: float) -> Answer:
        system, tokens = self.system, self.system.config.frame_tokens
        visual = len(asked.selected_N) * tokens
        return Answer(
            text=answer_text(system.tokenizer, ids, system.config.eos_ids),
            token_ids=[int(i) for i in ids],
            segments=self._segments(asked),
            usage={
                "frames": self.frames.count,
                "segments": 1 if self.is_image else self.frames.count,
                "budget": asked.budget,
                "visual_tokens": visual,
                "tokens_per_frame": visual / self.frames.count,
                "prompt_tokens": self._prompt_tokens(asked),
                "new_tokens": len(ids),
                "frames_kept": len(asked.selected_N),
            },
            timings=timings(asked, self.frames.seconds, first_token),
            warnings=asked.warnings,
            token_limits=(0, tokens),
        )

    def _frame_times(self) -> np.ndarray:
        """float64 [frames + 1]: when each frame begins, and the end of the last."""
        count, source = self.frames.count, self.source
        if not source.own_times:
            span = source.duration_seconds / count
            return source.shift_seconds + np.arange(count + 1) * span
        own = source.seconds[self.frames.sample_order]
        end = max(float(own[-1]), source.start_seconds + source.duration_seconds)
        return np.append(own, end)

    def _segments(self, asked: Asked) -> tuple[FrameSegment, ...]:
        if self.is_image:
            return ()
        count, tokens = self.frames.count, self.system.config.frame_tokens
        starts = self._frame_times()
        scores = np.full(count, np.nan) if asked.scores_F is None else asked.scores_F
        best = max(float(np.max(scores)), 1e-30)
        kept = np.isin(np.arange(count), asked.selected_N)
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


def _padded(text: layout.PromptText) -> steps.Prompt:
    suffix = np.asarray(text.suffix, np.int32)
    padding = buckets.round_up_to(len(suffix), buckets.PROMPT_ALIGNMENT) - len(suffix)
    return steps.Prompt(
        np.asarray(text.prefix, np.int32), np.pad(suffix, (0, padding)), np.int32(len(suffix))
    )
