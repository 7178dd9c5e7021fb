"""Architectures by name: those of the papers, tiny ones for tests, and those of the demo checkpoints.

Sources: docs/reference/tempo.md#compressor (Qwen3-VL-2B), docs/reference/tempo.md#global-llm (Qwen3-4B),
docs/reference/xcomp.md#components (VideoChat-Flash-2B).
"""

import dataclasses

from tempo_jax.models.config import (
    DecoderConfig,
    Qwen3VLConfig,
    TempoConfig,
    UMTConfig,
    VideoConfig,
    VisionConfig,
    XCompConfig,
)

QWEN3_VL_2B = Qwen3VLConfig(
    vision=VisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        depth=24,
        num_heads=16,
        out_hidden_size=2048,
        num_position_embeddings=2304,
        deepstack_layers=(5, 11, 17),
    ),
    text=DecoderConfig(
        vocab_size=151_936,
        hidden_size=2048,
        intermediate_size=6144,
        num_layers=28,
        num_heads=16,
        num_kv_heads=8,
        head_dim=128,
        rope_theta=5_000_000.0,
        mrope_sections=(24, 20, 20),
    ),
)

QWEN3_4B = DecoderConfig(
    vocab_size=151_936,
    hidden_size=2560,
    intermediate_size=9728,
    num_layers=36,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    rope_theta=1_000_000.0,
)

TEMPO_6B = TempoConfig(compressor=QWEN3_VL_2B, llm=QWEN3_4B)

TINY = TempoConfig(
    compressor=Qwen3VLConfig(
        vision=VisionConfig(
            hidden_size=48,
            intermediate_size=96,
            depth=4,
            num_heads=4,
            out_hidden_size=64,
            num_position_embeddings=64,
            deepstack_layers=(0, 1, 2),
        ),
        text=DecoderConfig(
            vocab_size=151_936,
            hidden_size=64,
            intermediate_size=128,
            num_layers=4,
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            rope_theta=5_000_000.0,
            mrope_sections=(4, 2, 2),
        ),
    ),
    llm=DecoderConfig(
        vocab_size=151_936,
        hidden_size=80,
        intermediate_size=160,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        rope_theta=5_000_000.0,
    ),
    memory_tokens=16,
)

# Trained from scratch on minireel (configs/demo_*.py), with that world's own vocabulary.
DEMO = TempoConfig(
    compressor=Qwen3VLConfig(
        vision=VisionConfig(
            hidden_size=96,
            intermediate_size=288,
            depth=4,
            num_heads=3,
            out_hidden_size=128,
            num_position_embeddings=64,
            deepstack_layers=(1,),
            patch_size=8,
        ),
        text=DecoderConfig(
            vocab_size=1024,
            hidden_size=128,
            intermediate_size=384,
            num_layers=4,
            num_heads=2,
            num_kv_heads=2,
            head_dim=64,
            rope_theta=10_000.0,
            mrope_sections=(16, 8, 8),
        ),
    ),
    llm=DecoderConfig(
        vocab_size=1024,
        hidden_size=160,
        intermediate_size=480,
        num_layers=5,
        num_heads=4,
        num_kv_heads=4,
        head_dim=32,
        rope_theta=100_000.0,
    ),
    memory_tokens=16,
    context_length=8192,
    eos_ids=(2,),
    video=VideoConfig(
        max_side=128, min_pixels=4096, max_pixels=4096, image_min_pixels=4096, image_max_pixels=4096
    ),
)

XCOMP_2B = XCompConfig(
    vision=UMTConfig(hidden_size=1024, intermediate_size=4096, depth=23, num_heads=16),
    llm=DecoderConfig(
        vocab_size=151_936,
        hidden_size=1536,
        intermediate_size=8960,
        num_layers=28,
        num_heads=12,
        num_kv_heads=2,
        head_dim=128,
        rope_theta=1_000_000.0,
        qk_norm=False,
        qkv_bias=True,
    ),
)

XCOMP_TINY = XCompConfig(
    vision=UMTConfig(hidden_size=128, intermediate_size=512, depth=2, num_heads=2),
    llm=dataclasses.replace(
        XCOMP_2B.llm, hidden_size=64, intermediate_size=128, num_heads=4, num_kv_heads=2, head_dim=16
    ),
)

# For minireel, as DEMO; of a size that two CPU cores can train.
XCOMP_DEMO = XCompConfig(
    vision=UMTConfig(
        hidden_size=128, intermediate_size=384, depth=3, num_heads=2, image_size=64, patch_size=8
    ),
    llm=dataclasses.replace(DEMO.llm, qk_norm=False, qkv_bias=True),
    # With 8, three trainings from scratch learned no shapes (docs/results/xcomp-experiments.md).
    clip_frames=1,
    score_layers=(1, 4),
    context_length=8192,
    eos_ids=(2,),
)

PRESETS = {
    "demo": DEMO,
    "qwen3-vl-2b": QWEN3_VL_2B,
    "qwen3-4b": QWEN3_4B,
    "tempo-6b": TEMPO_6B,
    "tiny": TINY,
    "xcomp-2b": XCOMP_2B,
    "xcomp-demo": XCOMP_DEMO,
    "xcomp-tiny": XCOMP_TINY,
}
