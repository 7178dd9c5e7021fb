"""`Clip`: one opened video, and the way a question about it takes through the jitted steps."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax.hybrid import lp_comp_for_tempo
from tempo_jax.prompts import Message
from tempo_jax.runtime import batching, buckets, generate
from tempo_jax.runtime.buckets import ProgramCache
from tempo_jax.runtime.placement import SEGMENTS
from tempo_jax.runtime.prefetch import prefetch
from tempo_jax.runtime.results import Answer, Inspection, Segment
from tempo_jax.runtime.session import OpenVideo, Progress, System, Turn, checked, finished_text, timings
from tempo_jax.tempo import layout, steps
from tempo_jax.tempo.options import Options

SIZES = ProgramCache((steps.resize, steps.see, steps.read_prefix, steps.compress))
IN_FLIGHT = 2  # chunks the host may run ahead of the device


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question whose prompt the LLM has read."""

    options: Options
    bank: steps.Bank
    selection: steps.Selection
    prefilled: steps.Prefilled | None  # None once somebody else holds it
    sampling: generate.Sampling
    budget: int
    prompt_tokens: int
    warnings: tuple[str, ...]
    started: float  # time.perf_counter() when asked
    compressed: float  # … and when the allocation was known
    lp_comp: lp_comp_for_tempo.Plan | None


class Clip(OpenVideo):
    """An opened video of Tempo's, made by `Tempo.open`.

    With `keep`, later questions cost no decoding and no vision tower.
    """

    options = Options

    def __init__(
        self, tempo: System, source: Any, *, keep: bool, prefix_cache: bool = False, questions: int = 1
    ):
        super().__init__(tempo)
        self.source = source
        self.layout = layout.plan(
            source, tempo.config, tempo.tokenizer, tempo.chunk_segments, tempo.place.segment_shards
        )
        self._keep, self._prefix_cache = keep, prefix_cache
        self._held: list = []  # per chunk: its Visual, or its prefix with a prefix cache
        self._video_seconds = 0.0
        self._banks: dict[str, steps.Bank] = {}  # of the last questions, the newest last
        self._most_banks = questions if keep else 0

    @property
    def tempo(self) -> System:
        return self.system

    @property
    def held_bytes(self) -> dict[str, int]:
        """Device memory kept for further questions: {"visual": bytes} or {"prefix": bytes}."""
        total = sum(x.nbytes for x in jax.tree.leaves(self._held))
        return {"prefix" if self._prefix_cache else "visual": total}

    @property
    def waited_seconds(self) -> float:
        """How long the device stood waiting for frames in the latest reading of the video."""
        return self._video_seconds

    def read(self, progress: Progress = None, *, settled: bool = False) -> None:
        """Decodes and encodes the video if the clip does not hold it yet.

        settled: nothing of a chunk is left to be computed when its progress is told, so that the device is
        free then for something else.
        """
        with self.tempo.place():
            for item in self._chunks(progress):
                if settled:
                    jax.block_until_ready(item)
            jax.block_until_ready(self._held)

    def compile(self) -> None:
        """Compiles what reading the video takes, so that the device is not kept waiting for it."""
        tempo, plan = self.tempo, self.layout
        compressor, place = tempo.model.compressor, tempo.place
        height, width = self.source.height, self.source.width
        shape = (plan.chunk_segments, plan.segment_frames)
        size = (shape, (height, width), plan.steps, plan.chunks[0].rows.token_ids_SL.shape)
        if not SIZES.use(size) or place.mesh is not None:
            return
        with place():
            frames = jax.ShapeDtypeStruct((*shape, height, width, 3), np.uint8)
            steps.resize.lower(frames, steps=plan.steps, image=plan.is_image).compile()
            resized = frames.update(shape=(*shape, *plan.steps[-1], 3))
            steps.see.lower(compressor, resized).compile()
            if self._prefix_cache:
                parameter = jax.tree.leaves(compressor)[0]  # what is computed with it stays where it is
                where = parameter.sharding if parameter.committed else None
                visual = jax.tree.map(
                    lambda x: x.update(sharding=where), jax.eval_shape(steps.see, compressor, resized)
                )
                steps.read_prefix.lower(compressor, visual, place.put(plan.chunks[0].rows)).compile()

    def answer(self, turns: Sequence[Turn]) -> None:
        """As OpenVideo.answer; greedy answers are written together."""
        batching.answer_together(self, turns)

    def inspect(self, question: str, **options: Any) -> Inspection:
        """The numbers between video and answer."""
        asked = self.prefill(question, Options(**options))
        count = self.layout.segments
        allocation = np.asarray(asked.selection.allocation_S)[:count]
        return Inspection(
            relevance=np.asarray(asked.bank.relevance_S)[:count],
            allocation=allocation[:0] if self.layout.is_image else allocation,
            memory=np.asarray(asked.bank.memory_SKD)[:count],
            sequence_length=asked.prompt_tokens,
            logits=np.asarray(asked.prefilled.logits_BV)[0],
            warnings=asked.warnings,
        )

    def prefill(
        self,
        question: str,
        options: Options,
        progress: Progress = None,
        conversation: Sequence[Message] = (),
    ) -> Asked:
        """Everything up to the LLM's first logits."""
        started, tempo, plan = time.perf_counter(), self.tempo, self.layout
        question, warnings = checked(question)
        prompt = layout.prompt_of(plan, tempo.tokenizer, question, conversation)
        text = int(np.sum(prompt.prefix_P >= 0) + np.sum(prompt.suffix_Q >= 0))
        allocate = options.allocates and not plan.is_image
        everything = plan.segments * tempo.config.memory_tokens
        budget, lowered = layout.affordable_budget(
            plan,
            options.budget if allocate else None,
            memory_tokens=tempo.config.memory_tokens,
            text_tokens=text,
            new_tokens=options.max_new_tokens,
            context=tempo.config.context_length,
        )
        warnings += [lowered] if lowered else []
        keep_key, key = jax.random.split(jax.random.key(options.seed))
        sampling = generate.Sampling(jnp.float32(options.temperature or 1.0), jnp.float32(options.top_p), key)
        with tempo.place():
            prompt = tempo.place.put(prompt)
            bank = self._compress(question, progress)
            selection = steps.select(
                bank,
                plan.segments,
                min(budget, everything),
                prompt.tags_ST,
                keep_key,
                strategy=options.strategy if options.compress and not plan.is_image else None,
                limits=options.limits(tempo.config.memory_tokens),
                drop_ratio=options.drop_ratio,
            )
            length = text + int(selection.visual_rows)  # the one value the host waits for
            compressed = time.perf_counter()
            warnings += dict.fromkeys(self.source.warnings)  # complete now that the video has been read
            bucket = buckets.bucket(length, buckets.PREFILL)
            lp_comp = self._lp_comp(options, prompt, bucket)
            prefilled = steps.prefill(
                tempo.model,
                selection,
                prompt,
                sampling,
                bucket=bucket,
                capacity=buckets.bucket(options.max_new_tokens, buckets.NEW_TOKENS),
                greedy=options.greedy,
                eos=tempo.config.eos_ids,
                lp_comp=lp_comp,
            )
        return Asked(
            options,
            bank,
            selection,
            prefilled,
            sampling,
            budget,
            length,
            tuple(warnings),
            started,
            compressed,
            lp_comp,
        )

    def _lp_comp(self, options: Options, prompt: steps.Prompt, bucket: int) -> lp_comp_for_tempo.Plan | None:
        if options.lp_comp == "none" or self.layout.is_image:
            return None
        config = self.tempo.config
        return lp_comp_for_tempo.plan(
            options.lp_comp,
            config.llm.num_layers,
            config.memory_tokens,
            bucket=bucket,
            segments=self.layout.padded_segments,
            text=sum(x.size for x in prompt),
        )

    def _chunks(self, progress: Progress) -> Iterator[Any]:
        """Per chunk its visual tokens or, with a prefix cache, its prefix; reads the video if need be."""
        total = len(self.layout.chunks)
        if len(self._held) == total:
            yield from self._held
            return
        self._held, waiting = [], []
        started = time.perf_counter()
        for index, frames in enumerate(prefetch(layout.chunk_frames(self.source, self.layout))):
            self._video_seconds += time.perf_counter() - started
            item = self._encode(index, frames)
            if self._keep:
                self._held.append(item)
            yield item
            waiting.append(item)
            if len(waiting) > IN_FLIGHT:
                jax.block_until_ready(waiting.pop(0))
            if progress:
                progress("decoding", index + 1, total)
            started = time.perf_counter()

    def _encode(self, index: int, frames: np.ndarray) -> Any:
        frames = self.tempo.place.put(frames, SEGMENTS)
        resized = steps.resize(frames, steps=self.layout.steps, image=self.layout.is_image)
        visual = steps.see(self.tempo.model.compressor, resized)
        return self._prefix(index, visual) if self._prefix_cache else visual

    def _prefix(self, index: int, visual: Any) -> Any:
        rows = self.tempo.place.put(self.layout.chunks[index].rows)
        return steps.read_prefix(self.tempo.model.compressor, visual, rows)

    def _compress(self, question: str, progress: Progress) -> steps.Bank:
        """Relevance and memory tokens of every segment for this question.

        Asked again, with another budget or strategy say, it costs nothing.
        """
        if question in self._banks:
            self._video_seconds = 0.0
            return self._banks[question]
        put, compressor = self.tempo.place.put, self.tempo.model.compressor
        embedding = compressor.memory.embedding
        shape = (self.layout.padded_segments, *embedding.shape)
        bank = put(steps.Bank(np.zeros(shape, embedding.dtype), np.zeros(shape[0], np.float32)))
        ids, length = layout.question_row(self.tempo.tokenizer, question, compressor.memory_tokens)
        ids = put(ids)
        self._video_seconds = 0.0
        seen, total = len(self._held), len(self.layout.chunks)
        for chunk, (index, held) in zip(self.layout.chunks, enumerate(self._chunks(progress)), strict=True):
            prefix = held if self._prefix_cache else self._prefix(index, held)
            bank = steps.compress(
                compressor,
                bank,
                prefix,
                put(chunk.length_C),
                put(chunk.next_position_C),
                ids,
                length,
                chunk.start,
            )
            if progress and seen == total:  # else reading the video sets the pace, and is reported
                jax.block_until_ready(bank)
                progress("compressing", index + 1, total)
        self._banks[question] = bank
        while len(self._banks) > self._most_banks:
            del self._banks[next(iter(self._banks))]
        return bank

    def result(self, asked: Asked, ids: np.ndarray, first_token: float) -> Answer:
        tempo, plan = self.tempo, self.layout
        relevance = np.asarray(asked.bank.relevance_S)
        allocation = np.asarray(asked.selection.allocation_S)
        visual = int(asked.selection.visual_tokens)
        tokens, sampled = asked.prompt_tokens, (self.source.parent or self.source).num_frames
        if asked.lp_comp is not None:
            tokens += float(np.mean(lp_comp_for_tempo.layer_tokens(allocation, asked.lp_comp))) - visual
        return Answer(
            text=finished_text(tempo.tokenizer, ids, tempo.config.eos_ids),
            token_ids=[int(i) for i in ids],
            segments=tuple(
                Segment(s.index, s.start_seconds, s.end_seconds, float(relevance[i]), int(allocation[i]))
                for i, s in enumerate(plan.times)
            ),
            usage={
                "frames": sampled,
                "frames_kept": self.source.num_frames,
                "segments": plan.segments,
                "budget": int(asked.budget),
                "visual_tokens": visual,
                "tokens_per_frame": visual / sampled,
                "prompt_tokens": asked.prompt_tokens,
                "layer_tokens": tokens,
                "new_tokens": len(ids),
            },
            timings=timings(asked, self._video_seconds, first_token),
            warnings=asked.warnings,
            token_limits=asked.options.limits(tempo.config.memory_tokens),
        )
