"""`XComp`: a loaded model that answers questions about videos, with `tempo.engine.Tempo`'s interface."""

from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from tempo_jax.errors import TempoError
from tempo_jax.models import build
from tempo_jax.models.config import LPCompConfig, XCompConfig
from tempo_jax.prompts import Tokenizer
from tempo_jax.runtime.placement import Placement
from tempo_jax.runtime.results import Answer, Inspection
from tempo_jax.video import Reading, open_video
from tempo_jax.xcomp import layout, token_compression
from tempo_jax.xcomp.clip import Clip
from tempo_jax.xcomp.options import Options

DEFAULT_CHUNK_CLIPS = 4  # clips of 8 frames per call of the vision tower on one device; more of shorter ones


class XComp:
    """The system of one checkpoint on one mesh. Thread-compatible: one call at a time."""

    def __init__(
        self,
        config: XCompConfig,
        params: dict,
        tokenizer: Tokenizer,
        *,
        mesh: jax.sharding.Mesh | None = None,
        chunk_clips: int = DEFAULT_CHUNK_CLIPS,
    ):
        """params: parameter tree, stacked or one node per layer, already placed on the mesh."""
        self.config, self.tokenizer = config, tokenizer
        if layout.FRAME_GROUP % config.clip_frames:
            raise TempoError(f"clip_frames is {config.clip_frames} in model.json: it must be 1, 2, 4 or 8.")
        try:
            self.model = build.build(config, build.unstack_layers(params))
        except ValueError as error:
            raise TempoError(f"The checkpoint does not fit its own model.json: {error}.") from error
        self._plan(config.compression)  # odd settings show before a video is read
        self.dtype = self.model.llm.embed.embedding.dtype
        self.place = Placement(mesh, exact=self.dtype == jnp.float32)
        self.chunk_clips = (
            chunk_clips * (layout.FRAME_GROUP // config.clip_frames) * self.place.segment_shards
        )

    def drop_schedule(self, options: Options) -> token_compression.DropSchedule:
        """Which tokens of a frame each layer sees."""
        name = options.lp_comp if options.compress else "none"
        return self._plan(self.config.compression if name is None else token_compression.VARIANTS[name])

    def _plan(self, settings: LPCompConfig) -> token_compression.DropSchedule:
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
        """Decodes a video and runs the vision tower, once for all further questions.

        keep: False puts off both until a question is asked and keeps nothing of it.
        repeat_short: frames of a video with fewer than min_frames are repeated, as in the released
          evaluation with selection (xcomp §1.7).
        **reading: how the file is read, see `video.Reading`.
        Other arguments as in `ask`.
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

        video: as for Tempo. Arrays, .npy files and folders count as recorded at `fps`.
        budget: most visual tokens that enter the LLM, 16 a frame; frames beyond it are left out by their
          scores. None: videos of 1024 frames or more keep 512, shorter ones all (§3.1).
        fps, min_frames, max_frames: sampling rate in frames per second and its limits, in eights.
        strategy: which frames stay: "local" (the paper's), "global" (its ablation) or "uniform" (evenly
          spread ones, whatever the question).
        compress: False keeps every frame and all tokens in all layers.
        lp_comp (None): which tokens of a frame the LLM's layers see, a name in
          token_compression.VARIANTS; None as the checkpoint has it.
        repeats (2), causal_scoring (True), query_skip (None), repetition_penalty (1.0), top_p (1.0): of
          scoring and decoding; docs/xcomp.md has the released values.
        sampling, source_fps, exif, square_pixels: how the file is read, see `video.Reading`.
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
        """The numbers between video and answer (arguments as in `ask`)."""
        reading = {name: options.pop(name) for name in Reading.__annotations__ if name in options}
        limits = {"fps": fps, "min_frames": min_frames, "max_frames": max_frames}
        clip = self.open(video, **limits, keep=False, **reading)
        return clip.inspect(question, budget=budget, **options)
