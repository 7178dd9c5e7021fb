"""Architectures as frozen dataclasses; `presets` has those of the papers and of this project.

Sources: docs/reference/tempo.md#compressor, docs/reference/tempo.md#global-llm,
docs/reference/xcomp.md#components, docs/reference/xcomp.md#schedule.
"""

import dataclasses
from typing import Any, NamedTuple

# Id of padding and under memory tokens: it is in every vocabulary, and no token attends to it.
PADDING_ID = 0


class SpecialIds(NamedTuple):
    """Ids of the tokens that structure prompts, and of the words that relevance is computed from."""

    end_of_text: int
    im_start: int
    im_end: int
    vision_start: int
    vision_end: int
    image_pad: int
    video_pad: int
    yes: int
    no: int
    newline: int


# The same in every Qwen2.5, Qwen3 and Qwen3-VL vocabulary.
QWEN_IDS = SpecialIds(151_643, 151_644, 151_645, 151_652, 151_653, 151_655, 151_656, 9454, 2753, 198)


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A Qwen2.5, Qwen3 or Qwen3-VL text decoder."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float
    rms_norm_eps: float = 1e-6
    qk_norm: bool = True  # Qwen3: RMSNorm on each query and key head
    qkv_bias: bool = False  # Qwen2.5: bias on the q, k and v projections
    tie_embeddings: bool = True
    mrope_sections: tuple[int, int, int] | None = None  # interleaved (t, h, w) rotary pairs


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The Qwen3-VL vision tower."""

    hidden_size: int
    intermediate_size: int
    depth: int
    num_heads: int
    out_hidden_size: int
    num_position_embeddings: int  # of a square grid, which is resampled to each frame's grid
    deepstack_layers: tuple[int, ...]  # blocks whose outputs also become features, in the mergers' order
    patch_size: int = 16
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    in_channels: int = 3
    rope_theta: float = 10_000.0

    @property
    def patch_dim(self) -> int:
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merged_patch_pixels(self) -> int:
        """Side of one visual token (of merged patches) in pixels."""
        return self.patch_size * self.spatial_merge_size


@dataclasses.dataclass(frozen=True)
class Qwen3VLConfig:
    """Qwen3-VL: vision tower and text decoder."""

    vision: VisionConfig
    text: DecoderConfig


@dataclasses.dataclass(frozen=True)
class VideoConfig:
    """Segmentation and limits of frame sizes (docs/reference/tempo.md#frame-sizes); areas in pixels."""

    segment_frames: int = 8
    max_side: int = 512
    min_pixels: int = 131_072
    max_pixels: int = 786_432
    image_min_pixels: int = 65_536
    image_max_pixels: int = 16_777_216


@dataclasses.dataclass(frozen=True)
class TempoConfig:
    """Tempo: compressor, projector and global LLM."""

    compressor: Qwen3VLConfig
    llm: DecoderConfig
    memory_tokens: int = 128
    projector: str = "linear"  # or "mlpNx_gelu", "identity"
    context_length: int = 16_384
    eos_ids: tuple[int, ...] = (QWEN_IDS.im_end,)
    video: VideoConfig = VideoConfig()


@dataclasses.dataclass(frozen=True)
class UMTConfig:
    """The UMT vision tower of VideoChat-Flash (docs/reference/xcomp.md#vision-tower)."""

    hidden_size: int
    intermediate_size: int
    depth: int
    num_heads: int
    image_size: int = 448
    patch_size: int = 16
    in_channels: int = 3

    @property
    def patches_per_side(self) -> int:
        """Patches per side of a frame."""
        return self.image_size // self.patch_size


@dataclasses.dataclass(frozen=True)
class LPCompConfig:
    """How LP-Comp drops a frame's tokens between layers (docs/reference/xcomp.md#schedule)."""

    schedule: str = "cosine"  # or "steps", "none"
    rounding: str = "round"  # of the cosine: "round" as in the reference code, "ceil" as in the paper
    keep: str = "suffix"  # or "uniform", or "stride", which goes with "steps"
    step_layers: tuple[int, ...] = (10, 20)  # of "steps": before these layers, one token in `stride` is kept
    stride: int = 4


@dataclasses.dataclass(frozen=True)
class XCompConfig:
    """VideoChat-Flash with LP-Comp in the LLM, which adds no weights (docs/reference/xcomp.md#components)."""

    vision: UMTConfig
    llm: DecoderConfig
    clip_frames: int = 8  # encoded together; the reference evaluates with 4
    frame_tokens: int = 16  # visual tokens of a frame, on average over its clip
    compression: LPCompConfig = LPCompConfig()
    score_layers: tuple[int, int] = (6, 24)  # range of the layers that score frames, from 0
    context_length: int = 32_768
    eos_ids: tuple[int, ...] = (QWEN_IDS.im_end, QWEN_IDS.end_of_text)

    @property
    def memory_tokens(self) -> int:
        """Visual tokens of a clip; named as the tokens of Tempo's segments, which batches treat alike."""
        return self.clip_frames * self.frame_tokens


KINDS = {"tempo": TempoConfig, "qwen3": DecoderConfig, "qwen3-vl": Qwen3VLConfig, "xcomp": XCompConfig}


def to_dict(config: Any) -> dict:
    """Returns a config as plain JSON values."""
    return dataclasses.asdict(config)


def from_dict(cls: type, values: dict) -> Any:
    """Returns the config of `to_dict`'s result.

    Raises:
      TypeError: Keys are unknown or missing.
    """
    types = {f.name: f.type for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise TypeError(f"{cls.__name__} has no field {', '.join(unknown)}")

    def convert(name, value):
        if dataclasses.is_dataclass(types[name]):
            return from_dict(types[name], value)
        return tuple(value) if isinstance(value, list) else value

    return cls(**{name: convert(name, value) for name, value in values.items()})
