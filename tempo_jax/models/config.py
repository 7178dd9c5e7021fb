"""Architectures as frozen dataclasses; `presets` has those of the published systems and of our own.

Sources: facts/tempo.md §1.2 (Qwen3-VL-2B), §1.6 (Qwen3-4B), §1.3-1.5 (memory tokens, projector);
facts/xcomp.md §1 (VideoChat-Flash-2B), §2 (compression in the LLM).
"""

import dataclasses
from typing import Any, NamedTuple

# Stands on padding and under memory tokens: in every vocabulary, and nothing attends to it.
PADDING_ID = 0


class SpecialIds(NamedTuple):
    """Ids of the tokens that give a prompt its structure (facts §1.3, §1.9, §3.1)."""

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


# Of every Qwen2.5/Qwen3/Qwen3-VL vocabulary.
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
    num_position_embeddings: int  # a square grid, resampled to each frame's own
    deepstack_layers: tuple[int, ...]  # blocks whose outputs are merged too, in the mergers' order
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
        """Pixels of one merged visual token's side."""
        return self.patch_size * self.spatial_merge_size


@dataclasses.dataclass(frozen=True)
class Qwen3VLConfig:
    vision: VisionConfig
    text: DecoderConfig


@dataclasses.dataclass(frozen=True)
class VideoConfig:
    """Segmentation and frame-size limits (facts §2.2, §2.3); areas in pixels."""

    segment_frames: int = 8
    max_side: int = 512
    min_pixels: int = 131_072
    max_pixels: int = 786_432
    image_min_pixels: int = 65_536
    image_max_pixels: int = 16_777_216


@dataclasses.dataclass(frozen=True)
class TempoConfig:
    compressor: Qwen3VLConfig
    llm: DecoderConfig
    memory_tokens: int = 128
    projector: str = "linear"  # or "mlpNx_gelu", "identity"
    context_length: int = 16_384
    eos_ids: tuple[int, ...] = (QWEN_IDS.im_end,)
    video: VideoConfig = VideoConfig()


@dataclasses.dataclass(frozen=True)
class UMTConfig:
    """The UMT vision tower of VideoChat-Flash; `depth` counts the blocks that run (xcomp §1.2)."""

    hidden_size: int
    intermediate_size: int
    depth: int
    num_heads: int
    image_size: int = 448
    patch_size: int = 16
    in_channels: int = 3

    @property
    def patches_per_side(self) -> int:
        """Patches of one frame's side."""
        return self.image_size // self.patch_size


@dataclasses.dataclass(frozen=True)
class LPCompConfig:
    """How a frame's tokens become fewer from layer to layer (xcomp §2.1-2.3)."""

    schedule: str = "cosine"  # or "steps", "none"
    rounding: str = "round"  # of the cosine: "round" as released, "ceil" as in the paper
    keep: str = "suffix"  # or "uniform", or "stride", which goes with "steps"
    step_layers: tuple[int, ...] = (10, 20)  # "steps": after these layers one token in `stride` stays
    stride: int = 4


@dataclasses.dataclass(frozen=True)
class XCompConfig:
    """VideoChat-Flash's architecture with compression in the LLM, which adds no weights (xcomp §1, §2)."""

    vision: UMTConfig
    llm: DecoderConfig
    clip_frames: int = 8  # seen together by the vision tower; the released evaluation runs 4 (§1.3)
    frame_tokens: int = 16  # visual tokens of a frame, on average over its clip
    compression: LPCompConfig = LPCompConfig()
    score_layers: tuple[int, int] = (6, 24)  # first layer, from 0, and one past the last that score frames
    context_length: int = 32_768
    eos_ids: tuple[int, ...] = (QWEN_IDS.im_end, QWEN_IDS.end_of_text)

    @property
    def memory_tokens(self) -> int:
        """Visual tokens of a clip: what a batch's pool holds for each, as of Tempo's segments."""
        return self.clip_frames * self.frame_tokens


KINDS = {"tempo": TempoConfig, "qwen3": DecoderConfig, "qwen3-vl": Qwen3VLConfig, "xcomp": XCompConfig}


def to_dict(config: Any) -> dict:
    """A config as plain JSON values."""
    return dataclasses.asdict(config)


def from_dict(cls: type, values: dict) -> Any:
    """The inverse of `to_dict`; unknown or missing keys raise TypeError."""
    types = {f.name: f.type for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise TypeError(f"{cls.__name__} has no field {', '.join(unknown)}")

    def convert(name, value):
        if dataclasses.is_dataclass(types[name]):
            return from_dict(types[name], value)
        return tuple(value) if isinstance(value, list) else value

    return cls(**{name: convert(name, value) for name, value in values.items()})
