"""`Clip`: a video opened with Tempo, and the path of a question through the jitted steps."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.hybrid import lp_comp_for_tempo
from tempo_jax.prompts import Message
from tempo_jax.runtime import buckets, generate
from tempo_jax.runtime.results import Answer, Inspection, Segment
from tempo_jax.runtime.session import (
    PrefilledRequest,
    Progress,
    System,
    VideoSession,
    answer_text,
    timings,
    validate_question,
)
from tempo_jax.tempo import layout, steps
from tempo_jax.tempo.features import VideoFeatures
from tempo_jax.tempo.options import Options


@dataclasses.dataclass(frozen=True, kw_only=True)
class TempoRequest(PrefilledRequest):
    """A prefilled request of Tempo's.

    Attributes:
      memory: Memory tokens of all segments for this question.
      allocation: Which of them are kept.
      lp_comp: Which of those are dropped between the LLM's layers, if any.
    """

    memory: steps.SegmentMemory
    allocation: steps.TokenAllocation
    lp_comp: lp_comp_for_tempo.SegmentDropSchedule | None


class Clip(VideoSession):
    """A video opened by `Tempo.open`. With `keep`, later questions need no decoding and no vision tower.

    Attributes:
      source: The video, from `tempo_jax.video.open_video`.
      layout: Its segments, prompts and chunks.
      last_answer: The Answer of the latest question, also after `stream`.
    """

    options = Options

    def __init__(
        self, tempo: System, source: Any, *, keep: bool, prefix_cache: bool = False, questions: int = 1
    ):
        super().__init__(tempo)
        self.source = source
        self.layout = layout.make_layout(
            source, tempo.config, tempo.tokenizer, tempo.chunk_segments, tempo.place.segment_shards
        )
        self._features = VideoFeatures(tempo, source, self.layout, keep=keep, prefix_cache=prefix_cache)
        self._memory_cache: dict[str, steps.SegmentMemory] = {}  # by question, the newest last
        self._max_cached_questions = questions if keep else 0

    @property
    def tempo(self) -> System:
        return self.system

    @property
    def held_bytes(self) -> dict[str, int]:
        """Device memory cached for further questions: {"visual": bytes} or {"prefix": bytes}."""
        return {"prefix" if self._features.prefix_cache else "visual": self._features.nbytes}

    @property
    def decode_wait_seconds(self) -> float:
        """How long the device waited for decoded frames in the latest pass over the video."""
        return self._features.decode_wait_seconds

    def encode(self, progress: Progress = None, *, synchronous: bool = False) -> None:
        """Decodes and encodes the video unless it is cached.

        Args:
          progress: Called with (stage, chunks done, chunks in all).
          synchronous: Waits for every chunk before its progress is reported, so that the device is idle then
            and can do other work.
        """
        with self.tempo.place():
            self._features.encode(progress, synchronous=synchronous)

    def release(self) -> None:
        """Drops what is cached of the video; a further question decodes it again."""
        self._features.clear()
        self._memory_cache.clear()

    def compile(self) -> None:
        """Compiles the programs that encode the video, so that the device does not wait for them later."""
        self._features.compile()

    def inspect(self, question: str, **options: Any) -> Inspection:
        """Returns the intermediate values between video and answer; options as in `Tempo.ask`."""
        request = self.prefill(question, Options(**options))
        count = self.layout.num_segments
        allocation = np.asarray(request.allocation.allocation_S)[:count]
        return Inspection(
            relevance=np.asarray(request.memory.relevance_S)[:count],
            allocation=allocation[:0] if self.layout.is_image else allocation,
            memory=np.asarray(request.memory.memory_SKD)[:count],
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
    ) -> TempoRequest:
        start_time, tempo, video_layout = time.perf_counter(), self.tempo, self.layout
        memory_tokens = tempo.config.memory_tokens
        question, warnings = validate_question(question)
        prompt = layout.prompt_of(video_layout, tempo.tokenizer, question, conversation)
        text_tokens = int(np.sum(prompt.prefix_P >= 0) + np.sum(prompt.suffix_Q >= 0))
        allocates = options.uses_budget and not video_layout.is_image
        budget, lowered = layout.fit_budget_to_context(
            video_layout,
            options.budget if allocates else None,
            memory_tokens=memory_tokens,
            text_tokens=text_tokens,
            new_tokens=options.max_new_tokens,
            context_length=tempo.config.context_length,
        )
        warnings += [lowered] if lowered else []
        keep_key, key = jax.random.split(jax.random.key(options.seed))
        sampling = generate.SamplingParams(
            jnp.float32(0 if options.greedy else options.temperature), jnp.float32(options.top_p), key
        )
        with tempo.place():
            prompt = tempo.place.put(prompt)
            memory = self._compress(question, progress)
            allocation = steps.allocate_tokens(
                memory,
                video_layout.num_segments,
                min(budget, video_layout.num_segments * memory_tokens),
                prompt.tags_ST,
                keep_key,
                strategy=options.strategy if options.compress and not video_layout.is_image else None,
                limits=options.token_limits(memory_tokens),
                drop_ratio=options.drop_ratio,
            )
            prompt_tokens = text_tokens + int(allocation.visual_length)  # the only wait for the device
            allocation_time = time.perf_counter()
            warnings += dict.fromkeys(self.source.warnings)  # complete now that the video is decoded
            bucket = buckets.pick_bucket(prompt_tokens, buckets.PREFILL_BUCKETS)
            lp_comp = self._drop_schedule(options, prompt, bucket)
            prefilled = steps.prefill(
                tempo.model,
                allocation,
                prompt,
                sampling,
                bucket=bucket,
                capacity=buckets.pick_bucket(options.max_new_tokens, buckets.NEW_TOKEN_BUCKETS),
                greedy=options.greedy,
                eos=tempo.config.eos_ids,
                lp_comp=lp_comp,
            )
        return TempoRequest(
            options=options,
            prefilled=prefilled,
            budget=budget,
            prompt_tokens=prompt_tokens,
            warnings=tuple(warnings),
            start_time=start_time,
            allocation_time=allocation_time,
            memory=memory,
            allocation=allocation,
            lp_comp=lp_comp,
        )

    def _drop_schedule(
        self, options: Options, prompt: steps.Prompt, bucket: int
    ) -> lp_comp_for_tempo.SegmentDropSchedule | None:
        if options.lp_comp == "none" or self.layout.is_image:
            return None
        config = self.tempo.config
        return lp_comp_for_tempo.make_schedule(
            options.lp_comp,
            config.llm.num_layers,
            config.memory_tokens,
            bucket=bucket,
            segments=self.layout.padded_segments,
            text_tokens=sum(x.size for x in prompt),
        )

    def _compress(self, question: str, progress: Progress) -> steps.SegmentMemory:
        """Memory tokens and relevance of every segment for this question.

        Cached by question: another budget or strategy costs no compressor work.
        """
        features = self._features
        features.decode_wait_seconds = 0.0
        if question in self._memory_cache:
            return self._memory_cache[question]
        put, compressor = self.tempo.place.put, self.tempo.model.compressor
        embedding = compressor.memory.embedding
        shape = (self.layout.padded_segments, *embedding.shape)
        memory = steps.SegmentMemory(np.zeros(shape, embedding.dtype), np.zeros(shape[0], np.float32))
        memory = put(memory)
        ids, length = layout.pad_question(self.tempo.tokenizer, question, compressor.memory_tokens)
        ids = put(ids)
        was_cached, total = features.is_cached, len(self.layout.chunks)
        chunks = zip(self.layout.chunks, enumerate(features.chunks(progress)), strict=True)
        for chunk, (index, chunk_features) in chunks:
            memory = steps.compress_chunk(
                compressor,
                memory,
                features.prefix(index, chunk_features),
                put(chunk.prompt_length_C),
                put(chunk.next_position_C),
                ids,
                length,
                chunk.start,
            )
            if progress and was_cached:  # otherwise decoding is the slower stage, and reports progress
                jax.block_until_ready(memory)
                progress("compressing", index + 1, total)
        self._memory_cache[question] = memory
        while len(self._memory_cache) > self._max_cached_questions:
            del self._memory_cache[next(iter(self._memory_cache))]
        return memory

    def result(self, request: TempoRequest, ids: np.ndarray, first_token_time: float) -> Answer:
        tempo = self.tempo
        relevance = np.asarray(request.memory.relevance_S)
        allocation = np.asarray(request.allocation.allocation_S)
        visual_tokens = int(request.allocation.visual_tokens)
        num_frames = (self.source.parent or self.source).num_frames
        layer_tokens = request.prompt_tokens
        if request.lp_comp is not None:
            layer_tokens += (
                float(np.mean(lp_comp_for_tempo.layer_tokens(allocation, request.lp_comp))) - visual_tokens
            )
        return Answer(
            text=answer_text(tempo.tokenizer, ids, tempo.config.eos_ids),
            token_ids=[int(i) for i in ids],
            segments=tuple(
                Segment(s.index, s.start_seconds, s.end_seconds, float(relevance[i]), int(allocation[i]))
                for i, s in enumerate(self.layout.segments)
            ),
            usage={
                "frames": num_frames,
                "frames_kept": self.source.num_frames,
                "segments": self.layout.num_segments,
                "budget": int(request.budget),
                "visual_tokens": visual_tokens,
                "tokens_per_frame": visual_tokens / num_frames,
                "prompt_tokens": request.prompt_tokens,
                "layer_tokens": layer_tokens,
                "new_tokens": len(ids),
            },
            timings=timings(request, self.decode_wait_seconds, first_token_time),
            warnings=request.warnings,
            token_limits=request.options.token_limits(tempo.config.memory_tokens),
        )
