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
from tempo_jax.models import build, quantized, stacks
from tempo_jax.models.config import TempoConfig
from tempo_jax.prompts import Tokenizer
from tempo_jax.runtime.batching import DecodeBatch
from tempo_jax.runtime.placement import Placement
from tempo_jax.runtime.results import Answer, Inspection
from tempo_jax.tempo.clip import Clip
from tempo_jax.video import Reading, open_video
from tempo_jax.xcomp.options import DEFAULT_SELECTED_FRAMES

DEFAULT_CHUNK_SEGMENTS = 8  # per compressor call and device


class Tempo:
    """A loaded Tempo on one device or mesh. Thread-compatible: one call at a time.

    Answers depend only on weights, video, question and options: not on earlier questions and, up to
    floating-point rounding, not on the mesh or the chunk size.

    Attributes:
      config: The architecture.
      tokenizer: The model's tokenizer.
      dtype: The parameters' dtype.
      decode_batch: The answers that `Clip.answer` decodes together, of all open videos.
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
        """Most users call `tempo_jax.load`.

        Args:
          config: The architecture.
          params: Parameter tree, stacked or per layer, already placed on the mesh; emptied.
          tokenizer: The model's.
          mesh: From `sharding.make_mesh`; None for the default device.
          chunk_segments: Segments per compressor call and device; fewer need less memory.
        """
        from tempo_jax.models.tempo import Tempo as Model

        self.config = config
        self.tokenizer = tokenizer
        try:
            self.model: Model = build.build(config, stacks.unstack_layers(params))
        except ValueError as error:
            raise TempoError(f"The checkpoint does not fit its own model.json: {error}.") from error
        self.dtype = self.model.llm.embed.embedding.dtype
        self.place = Placement(mesh, exact=self.dtype == jnp.float32)
        self.chunk_segments = chunk_segments * self.place.segment_shards
        self.decode_batch = DecodeBatch(self)

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
        """Decodes and encodes a video for repeated questions.

        Args:
          video: Path of a video, GIF, .npy, image folder or image, or a uint8 array [T, H, W, 3].
          fps: Sampling rate in frames per second.
          min_frames: Minimum number of sampled frames.
          max_frames: Maximum number of sampled frames.
          keep: If False, defers decoding to each question and caches nothing, in bounded memory.
          prefix_cache: Caches the compressor's KV prefix (system prompt and video) instead of the vision
            tower's output: repeated questions compute only their own and the memory tokens, at the cost of
            more memory. See `Clip.held_bytes`.
          questions: Number of recent questions whose memory tokens stay cached: with another budget or
            strategy, they need no compressor work.
          progress: Called with (stage, done, total).
          **reading: How the file is read, see `video.Reading`.

        Returns:
          A Clip whose `ask` and `stream` reuse the encoded video.

        Raises:
          TempoError: The video cannot be read, or arguments conflict.
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
        """Selects the segments of a video that `selector`, an XComp, scores highest for a question.

        Arguments as in `ask`; `hybrid.xcomp_selector.select_segments` has more.

        Returns:
          The selected segments, which `open` and `ask` take in place of a video.

        Raises:
          TempoError: The video cannot be read, or the selector is no XComp.
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

    part = select_segments  # its former name

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

        Args:
          video: Path of a video, GIF, .npy, image folder or image, or a uint8 array [T, H, W, 3]. Frames of
            .npy files and arrays count as recorded at `fps`.
          question: The question.
          budget: Maximum number of memory tokens of the whole video that enter the LLM, without time tags.
          fps: Sampling rate in frames per second.
          min_frames: Minimum number of sampled frames.
          max_frames: Maximum number of sampled frames.
          strategy: Which memory tokens of a segment are kept: "head", "tail", "random" or "tome"; "uniform"
            allocates the same number to every segment, whatever its relevance.
          compress: If False, keeps every memory token (the paper's baseline), without regard to budget and
            strategy.
          max_new_tokens: Maximum length of the answer.
          temperature: 0.0 decodes greedily; higher values sample.
          seed: Of sampling, and of the strategy "random".
          top_p: Nucleus sampling: the probability of the tokens that are sampled from.
          lp_comp: XComp's LP-Comp in the LLM: its layers drop more and more memory tokens of each segment and
            keep the last ones ("suffix", as XComp) or the first ones ("prefix"); "none" keeps all.
          selector: A loaded XComp, whose QC-Comp selects `selected_frames` of the frames for Tempo
            (hybrid/xcomp_selector.py).
          selected_frames: Maximum number of frames that the selector keeps.
          progress: Called with (stage, done, total).
          **reading: How the file is read, see `video.Reading`: sampling, source_fps, exif, square_pixels.

        Returns:
          The Answer.

        Raises:
          TempoError: The video cannot be read, or an argument is invalid.
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
        """Returns the intermediate values between video and answer; arguments as in `ask`."""
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
    """Loads a native checkpoint for inference.

    Args:
      checkpoint: Folder of the checkpoint.
      dtype: "bfloat16" or "float32"; None for the stored dtype; "int8" or "fp8" for bfloat16 with the
        matrices of decoder layers in 8 bits (weight-only quantization).
      mesh: From `sharding.make_mesh`; each process reads only its own shards. None for the default device.
      chunk_segments: Segments per compressor call and device; fewer need less memory.
      context_length: Overrides the checkpoint's (the paper uses 16,384 tokens, in evaluation 32,768).
      verify: Compares all bytes of the arrays' files with their digests first; otherwise a gibibyte of them.

    Returns:
      A `Tempo`, or an `xcomp.engine.XComp`, which has the same interface.

    Raises:
      TempoError: The folder is no sound checkpoint, or an argument is invalid.
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
    params = files.load_params(checkpoint, dtype=_dtype(dtype), shardings=mesh, verify=verify, per_layer=True)
    if quantized.is_quantized_dtype(dtype):
        params = quantized.quantize(params, dtype)
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
        parsed = np.dtype(dtype)
    except TypeError:
        parsed = None
    if parsed not in (jnp.float32, jnp.bfloat16):
        raise TempoError(f"dtype {dtype!r} is not supported: use bfloat16, float32, int8 or fp8.")
    return parsed
