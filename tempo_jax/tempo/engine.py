"""`Tempo`: a loaded model that answers questions about videos."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from tempo_jax import sharding
from tempo_jax.errors import TempoError
from tempo_jax.models import build, quantized
from tempo_jax.models.config import TempoConfig
from tempo_jax.prompts import Tokenizer
from tempo_jax.runtime.placement import Placement
from tempo_jax.runtime.results import Answer, Inspection
from tempo_jax.tempo.clip import Clip
from tempo_jax.video import Reading, open_video
from tempo_jax.xcomp.options import DEFAULT_SELECTED_FRAMES

DEFAULT_CHUNK_SEGMENTS = 8  # segments per compressor call on one device


class Tempo:
    """The system of one checkpoint on one mesh. Thread-compatible: one call at a time.

    Answers depend only on (weights, video, question, settings): not on what was asked before and,
    up to floating-point rounding, not on the mesh or the chunk size.
    """

    def __init__(
        self,
        config: TempoConfig,
        params: dict,
        tokenizer: Tokenizer,
        *,
        mesh: jax.sharding.Mesh | None = None,
        chunk_segments: int = DEFAULT_CHUNK_SEGMENTS,
    ):
        """params: parameter tree, stacked or one node per layer, already placed on the mesh.

        chunk_segments: how many segments the compressor takes at once, per device that segments
        spread over; less memory when smaller.
        """
        from tempo_jax.models.tempo import Tempo as Model

        self.config = config
        self.tokenizer = tokenizer
        try:
            self.model: Model = build.build(config, build.unstack_layers(params))
        except ValueError as error:
            raise TempoError(f"The checkpoint does not fit its own model.json: {error}.") from error
        self.dtype = self.model.llm.embed.embedding.dtype
        self.place = Placement(mesh, exact=self.dtype == jnp.float32)
        self.chunk_segments = chunk_segments * self.place.segment_shards

    def open(
        self,
        video: Any,
        *,
        fps: float = 2.0,
        min_frames: int = 4,
        max_frames: int = 1024,
        keep: bool = True,
        prefix_cache: bool = False,
        questions: int = 1,
        progress: Callable[[str, int, int], None] | None = None,
        **reading: Unpack[Reading],
    ) -> Clip:
        """Decodes a video and runs the vision tower, once for all further questions.

        keep: False puts off both until a question is asked, reads the video anew for each and keeps
          nothing of it, in bounded memory.
        prefix_cache: instead of the vision tower's output keep the compressor's keys and values of
          system prompt and video, so that a question computes only its own tokens and the memory
          tokens. `clip.held_bytes` says what is kept.
        questions: the last so many, asked again with another budget or strategy, are not compressed again.
        **reading: how the file is read, see `video.Reading`.
        Other arguments as in `ask`.
        """
        if prefix_cache and not keep:
            raise TempoError("A prefix cache is something kept: leave out keep=False or prefix_cache=True.")
        limits = {"fps": fps, "min_frames": min_frames, "max_frames": max_frames}
        source = open_video(video, **limits, config=self.config.video, progress=progress, **reading)
        clip = Clip(self, source, keep=keep, prefix_cache=prefix_cache, questions=questions)
        if keep:
            clip.encode(progress)
        return clip

    def select_segments(
        self,
        video: Any,
        question: str,
        selector: Any,
        selected_frames: int = DEFAULT_SELECTED_FRAMES,
        *,
        fps: float = 2.0,
        min_frames: int = 4,
        max_frames: int = 1024,
        progress: Callable[[str, int, int], None] | None = None,
        **reading: Unpack[Reading],
    ) -> Any:
        """What `open` and `ask` take in place of a video: its segments that `selector`, an XComp, finds best.

        Arguments as in `ask`; xcomp_selector.choose has more.
        """
        from tempo_jax.hybrid import xcomp_selector
        from tempo_jax.xcomp import engine

        if not isinstance(selector, engine.XComp):
            raise TempoError(
                f"The selector is a {type(selector).__name__}, but QC-Comp needs an XComp: load the "
                "checkpoint of one with tempo_jax.load."
            )
        config = self.config.video
        limits = {"fps": fps, "min_frames": min_frames, "max_frames": max_frames}
        source = open_video(video, **limits, config=config, progress=progress, **reading)
        return xcomp_selector.select_segments(
            selector,
            source,
            question,
            selected_frames,
            segment_frames=config.segment_frames,
            progress=progress,
        )

    def ask(
        self,
        video: Any,
        question: str,
        budget: int = 8192,
        fps: float = 2.0,
        min_frames: int = 4,
        max_frames: int = 1024,
        strategy: str = "head",
        compress: bool = True,
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        seed: int = 0,
        *,
        top_p: float = 1.0,
        lp_comp: str = "none",
        selector: Any = None,
        selected_frames: int = DEFAULT_SELECTED_FRAMES,
        progress: Callable[[str, int, int], None] | None = None,
        **reading: Unpack[Reading],
    ) -> Answer:
        """Answers one question about one video.

        video: path of a video, .gif, .npy ([T,H,W,3] uint8, frames as recorded at `fps`), folder of
          images or one image; or such an array.
        budget: most memory tokens the LLM may see, over the whole video (time tags not counted).
        fps, min_frames, max_frames: sampling rate in frames per second and its limits.
        strategy: which memory tokens of a segment stay: head, tail, random or tome; "uniform" gives every
          segment the same number, whatever its relevance.
        compress: False keeps every memory token (the published baseline); budget and strategy are
          then without effect.
        temperature, top_p, seed: 0.0 is greedy; otherwise nucleus sampling.
        lp_comp: XComp's LP-Comp in the LLM, whose layers see fewer and fewer memory tokens of a segment: its
          last ones ("suffix", as XComp) or its first ones ("prefix"); "none" keeps all in all layers.
        selector: a loaded XComp, whose QC-Comp leaves `selected_frames` of the frames to Tempo where there
          are more (hybrid/xcomp_selector.py).
        **reading: how the file is read, see `video.Reading`: sampling, source_fps, exif, square_pixels.

        Raises TempoError, one sentence, for input that cannot be used.
        """
        if selector is not None:
            video = self.select_segments(
                video, question, selector, selected_frames, fps=fps, min_frames=min_frames,
                max_frames=max_frames, progress=progress, **reading,
            )  # fmt: skip
        limits = {"fps": fps, "min_frames": min_frames, "max_frames": max_frames}
        clip = self.open(video, **limits, keep=False, progress=progress, **reading)
        return clip.ask(
            question,
            budget=budget,
            strategy=strategy,
            compress=compress,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            lp_comp=lp_comp,
            progress=progress,
        )

    def inspect(
        self,
        video: Any,
        question: str,
        budget: int = 8192,
        fps: float = 2.0,
        min_frames: int = 4,
        max_frames: int = 1024,
        strategy: str = "head",
        compress: bool = True,
        max_new_tokens: int = 1024,
        seed: int = 0,
        lp_comp: str = "none",
        **reading: Unpack[Reading],
    ) -> Inspection:
        """The numbers between video and answer (arguments as in `ask`)."""
        limits = {"fps": fps, "min_frames": min_frames, "max_frames": max_frames}
        clip = self.open(video, **limits, keep=False, **reading)
        return clip.inspect(
            question,
            budget=budget,
            strategy=strategy,
            compress=compress,
            max_new_tokens=max_new_tokens,
            seed=seed,
            lp_comp=lp_comp,
        )


def load(
    checkpoint: str | os.PathLike,
    dtype: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    *,
    chunk_segments: int = DEFAULT_CHUNK_SEGMENTS,
    context_length: int | None = None,
    verify: bool = False,
) -> Any:
    """A native checkpoint folder, ready to answer: a `Tempo`, or an `xcomp.engine.XComp` with its interface.

    dtype: "bfloat16" or "float32"; None keeps what is stored; "int8" or "fp8": bfloat16, the matrices of
    decoder layers stored in 8 bits (models/quantized.py). mesh: from `sharding.make_mesh`; each
    process reads only its own shards. context_length: overrides the checkpoint's (published:
    16,384 for use, 32,768 for evaluation). verify: compare every byte of the arrays' files with their
    digests first (a gibibyte of them always is). Raises TempoError for a folder that is no such
    checkpoint.
    """
    from tempo_jax import checkpoint as files

    if not isinstance(checkpoint, str | os.PathLike) or not os.fspath(checkpoint):
        raise TempoError(f"The checkpoint is {checkpoint!r}, but it must be the path of a native checkpoint.")
    for name, value in (("chunk_segments", chunk_segments), ("context_length", context_length or 1)):
        if not isinstance(value, int) or value < 1:
            raise TempoError(f"{name} is {value!r}, but it must be a whole number of at least 1.")
    mesh = None if mesh is None else sharding.check_mesh(mesh)
    info = files.read_model_json(checkpoint)
    if info.kind != "xcomp":
        info = files.read_model_json(checkpoint, kind="tempo")
    config = info.config
    if context_length is not None:
        config = dataclasses.replace(config, context_length=context_length)
    tokenizer = Tokenizer(files.tokenizer_path(checkpoint))
    params = files.load_params(checkpoint, dtype=_dtype(dtype), shardings=mesh, verify=verify)
    if quantized.is_quantized_dtype(dtype):
        params = quantized.quantize(build.unstack_layers(params), dtype)
    if info.kind == "xcomp":
        from tempo_jax.xcomp.engine import XComp

        return XComp(config, params, tokenizer, mesh=mesh, chunk_clips=max(1, chunk_segments // 2))
    return Tempo(config, params, tokenizer, mesh=mesh, chunk_segments=chunk_segments)


def _dtype(dtype: Any):
    if dtype is None:
        return None
    if quantized.is_quantized_dtype(dtype):
        return np.dtype(quantized.COMPUTE_DTYPE)
    try:
        chosen = np.dtype(dtype)
    except TypeError:
        chosen = None
    if chosen not in (jnp.float32, jnp.bfloat16):
        raise TempoError(f"dtype {dtype!r} is not supported: use bfloat16, float32, int8 or fp8.")
    return chosen
