"""`XComp`: a loaded model that answers questions about videos, with `tempo.engine.Tempo`'s interface."""

from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from tempo_jax.errors import TempoError
from tempo_jax.models import build, stacks
from tempo_jax.models.config import LPCompConfig, XCompConfig
from tempo_jax.prompts import Tokenizer
from tempo_jax.runtime.batching import DecodeBatch
from tempo_jax.runtime.placement import Placement
from tempo_jax.runtime.results import Answer, Inspection
from tempo_jax.video import Reading, open_video
from tempo_jax.xcomp import layout, token_compression
from tempo_jax.xcomp.clip import Clip
from tempo_jax.xcomp.options import Options

DEFAULT_CHUNK_CLIPS = 4  # clips of 8 frames per vision tower call and device; more of shorter clips


class XComp:
    """A loaded XComp on one device or mesh. Thread-compatible: one call at a time.

    Attributes:
      config: The architecture.
      tokenizer: The model's tokenizer.
      dtype: The parameters' dtype.
      decode_batch: The answers that `Clip.answer` decodes together, of all open videos.
    """

    def __init__(
        self,
        config: XCompConfig,
        params: dict,
        tokenizer: Tokenizer,
        *,
        mesh: jax.sharding.Mesh | None = None,
        chunk_clips: int = DEFAULT_CHUNK_CLIPS,
    ):
        """Most users call `tempo_jax.load`.

        Args:
          config: The architecture.
          params: Parameter tree, stacked or per layer, already placed on the mesh; emptied.
          tokenizer: The model's.
          mesh: From `sharding.make_mesh`; None for the default device.
          chunk_clips: Clips of 8 frames per vision tower call and device.
        """
        self.config, self.tokenizer = config, tokenizer
        if layout.FRAME_GROUP % config.clip_frames:
            raise TempoError(f"clip_frames is {config.clip_frames} in model.json: it must be 1, 2, 4 or 8.")
        try:
            self.model = build.build(config, stacks.unstack_layers(params))
        except ValueError as error:
            raise TempoError(f"The checkpoint does not fit its own model.json: {error}.") from error
        self._drop_schedule(config.compression)  # validates the settings before a video is decoded
        self.dtype = self.model.llm.embed.embedding.dtype
        self.place = Placement(mesh, exact=self.dtype == jnp.float32)
        self.chunk_clips = (
            chunk_clips * (layout.FRAME_GROUP // config.clip_frames) * self.place.segment_shards
        )
        self.decode_batch = DecodeBatch(self)

    def drop_schedule(self, options: Options) -> token_compression.DropSchedule:
        """Which tokens of a frame each layer processes."""
        name = options.lp_comp if options.compress else "none"
        return self._drop_schedule(
            self.config.compression if name is None else token_compression.VARIANTS[name]
        )

    def _drop_schedule(self, settings: LPCompConfig) -> token_compression.DropSchedule:
        return token_compression.make_schedule(settings, self.config.llm.num_layers, self.config.frame_tokens)

    def open(
        self,
        video: Any,
        *,
        fps: float = layout.FPS,
        min_frames: int = layout.MIN_FRAMES,
        max_frames: int = layout.MAX_FRAMES,
        keep: bool = True,
        repeat_short: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
        **reading: Unpack[Reading],
    ) -> Clip:
        """Decodes and encodes a video for repeated questions.

        Args:
          video: As in `ask`.
          fps: Sampling rate in frames per second.
          min_frames: Minimum number of sampled frames.
          max_frames: Maximum number of sampled frames.
          keep: If False, defers decoding to each question and caches nothing.
          repeat_short: Repeats frames of a video that has fewer than min_frames, as the reference does in
            evaluation with selection (docs/reference/xcomp.md#frame-sampling-of-xcomp).
          progress: Called with (stage, done, total).
          **reading: How the file is read, see `video.Reading`.

        Returns:
          A Clip whose `ask` and `stream` reuse the encoded video.

        Raises:
          TempoError: The video cannot be read, or an argument is invalid.
        """
        limits = {"fps": fps, "min_frames": min_frames, "max_frames": max_frames}
        sampler = layout.sample_indices
        source = open_video(video, **limits, sampler=sampler, progress=progress, **reading)
        short = repeat_short and source.kind == "video"
        clip = Clip(
            self,
            source,
            keep=keep,
            min_frames=min_frames // layout.FRAME_GROUP * layout.FRAME_GROUP if short else 0,
        )
        if keep:
            clip.encode(progress)
        return clip

    def ask(
        self,
        video: Any,
        question: str,
        budget: int | None = None,
        fps: float = layout.FPS,
        min_frames: int = layout.MIN_FRAMES,
        max_frames: int = layout.MAX_FRAMES,
        strategy: str = "local",
        compress: bool = True,
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        seed: int = 0,
        *,
        repeat_short: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
        **options: Any,
    ) -> Answer:
        """Answers one question about one video.

        Args:
          video: As in Tempo's `ask`. Arrays, .npy files and folders count as recorded at `fps`.
          question: The question.
          budget: Maximum number of visual tokens that enter the LLM, 16 per frame; frames are selected by
            their scores. None: videos of 1024 sampled frames or more keep 512, shorter ones all
            (docs/reference/xcomp.md#selection).
          fps: Sampling rate in frames per second.
          min_frames: Minimum number of sampled frames, rounded down to a multiple of 8.
          max_frames: Maximum number of sampled frames, rounded down to a multiple of 8.
          strategy: How frames are selected: "local" (the paper's), "global" (its ablation) or "uniform"
            (evenly spaced frames, whatever the question).
          compress: If False, keeps all frames, and all tokens in all layers.
          max_new_tokens: Maximum length of the answer.
          temperature: 0.0 decodes greedily.
          seed: Of sampling.
          repeat_short: As in `open`.
          progress: Called with (stage, done, total).
          **options: lp_comp (None): how the LLM's layers drop visual tokens, a name in
            token_compression.VARIANTS; None: as the checkpoint says. repeats (2), causal_scoring (True),
            query_skip (None): of scoring. repetition_penalty (1.0), top_p (1.0): of decoding.
            docs/guides/xcomp.md has the reference's values. sampling, source_fps, exif, square_pixels:
            how the file is read, see `video.Reading`.

        Raises:
          TempoError: The video cannot be read, or an argument is invalid.
        """
        reading = {name: options.pop(name) for name in Reading.__annotations__ if name in options}
        clip = self.open(
            video,
            fps=fps,
            min_frames=min_frames,
            max_frames=max_frames,
            keep=False,
            repeat_short=repeat_short,
            progress=progress,
            **reading,
        )
        return clip.ask(
            question,
            budget=budget,
            strategy=strategy,
            compress=compress,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            progress=progress,
            **options,
        )

    def inspect(
        self,
        video: Any,
        question: str,
        budget: int | None = None,
        fps: float = layout.FPS,
        min_frames: int = layout.MIN_FRAMES,
        max_frames: int = layout.MAX_FRAMES,
        **options: Any,
    ) -> Inspection:
        """Returns the intermediate values between video and answer; arguments as in `ask`."""
        reading = {name: options.pop(name) for name in Reading.__annotations__ if name in options}
        limits = {"fps": fps, "min_frames": min_frames, "max_frames": max_frames}
        clip = self.open(video, **limits, keep=False, **reading)
        return clip.inspect(question, budget=budget, **options)
