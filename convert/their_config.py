"""A checkpoint's configuration as transformers itself parses it, against that of a native checkpoint.

Nothing of how `hf_config` reads is used here, so that an error of our reading shows. No PyTorch is needed.
"""

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from convert.hf_fields import generation
from tempo_jax.models import config as cfg
from tempo_jax.models import rope

DECODER = {  # transformers' attribute -> ours
    "vocab_size": "vocab_size", "hidden_size": "hidden_size", "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads", "rms_norm_eps": "rms_norm_eps",
}  # fmt: skip
VISION = {
    "hidden_size": "hidden_size", "intermediate_size": "intermediate_size", "depth": "depth",
    "num_heads": "num_heads", "out_hidden_size": "out_hidden_size", "patch_size": "patch_size",
    "num_position_embeddings": "num_position_embeddings", "spatial_merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size", "in_channels": "in_channels",
}  # fmt: skip


def version() -> str:
    """Version of the installed transformers."""
    import transformers

    return transformers.__version__


# Read otherwise by 4.57 and 5: hf_fields follows the one that wrote the file, and says so.
GENERATIONS_DIFFER = ("rope_type", "rope_theta", "tie_word_embeddings")


def split(
    kind: str,
    config: Any,
    folder: str | os.PathLike,
    base: str | os.PathLike | None = None,
    *,
    headless: bool = False,
) -> tuple[list[str], list[str]]:
    """`differences`, and apart those that come of another generation of transformers having written it."""
    written = [generation(_read(path)) for path in (folder, base) if path is not None]
    other_generation = any(wrote != min(5, int(version().split(".")[0])) for wrote in written)
    phrases = differences(kind, config, folder, base, headless=headless)
    notes = [
        text
        for text in phrases
        if other_generation and text.split(" ")[0].split(".")[-1] in GENERATIONS_DIFFER
    ]
    return [text for text in phrases if text not in notes], notes


def differences(
    kind: str,
    config: Any,
    folder: str | os.PathLike,
    base: str | os.PathLike | None = None,
    *,
    headless: bool = False,
) -> list[str]:
    """Differences between `config` and how transformers parses a folder's config.json, a phrase each.

    `headless`: whether a Qwen3-VL's head is tied does not matter.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    values = _read(folder)
    try:
        if kind == "qwen3-vl":
            return _vl(transformers.Qwen3VLConfig.from_dict(values), config, headless)
        qwen2 = kind == "xcomp" or values.get("model_type") == "qwen2"
        if kind == "tempo":  # the authors' code sets the LLM's rope_scaling to None
            values.pop("rope_scaling", None)
        values.pop("model_type", None)
        parsed = (transformers.Qwen2Config if qwen2 else transformers.Qwen3Config).from_dict(values)
        phrases = _decoder(parsed, config if kind == "qwen3" else config.llm, parsed.tie_word_embeddings)
        if kind == "tempo" and base is not None:
            phrases += _vl(
                transformers.Qwen3VLConfig.from_dict(_read(base)), config.compressor, headless=True
            )
        return phrases
    except Exception as error:  # whatever its checks raise
        reason = " ".join(str(error).split())[:200]
        return [f"transformers {version()} does not read it: {reason}"]


def _read(folder: str | os.PathLike) -> dict:
    return copy.deepcopy(json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")))


def _vl(parsed: Any, config: cfg.Qwen3VLConfig, headless: bool = False) -> list[str]:
    text, vision = parsed.text_config, parsed.vision_config
    tied = parsed.tie_word_embeddings if int(version().split(".")[0]) >= 5 else text.tie_word_embeddings
    phrases = _decoder(text, config.text, None if headless else tied)
    phrases += _compare(vision, config.vision, VISION, "vision_config.")
    pairs = {
        "hidden_act": (vision.hidden_act, "gelu_pytorch_tanh"),
        "deepstack_visual_indexes": (
            list(vision.deepstack_visual_indexes),
            list(config.vision.deepstack_layers),
        ),
        "rope_theta": (
            _rope(vision)[1] if hasattr(vision, "rope_parameters") else 1e4,
            config.vision.rope_theta,
        ),
    }
    return phrases + _unequal(pairs, "vision_config.")


def _decoder(parsed: Any, config: cfg.DecoderConfig, tied: bool | None) -> list[str]:
    kind, theta, sections = _rope(parsed)
    head_dim = getattr(parsed, "head_dim", None) or parsed.hidden_size // parsed.num_attention_heads
    layer_types = getattr(parsed, "layer_types", None) or []
    pairs = {
        "head_dim": (head_dim, config.head_dim),
        "hidden_act": (parsed.hidden_act, "silu"),
        "attention_bias": (config.qkv_bias or bool(parsed.attention_bias), config.qkv_bias),
        "is_causal": (getattr(parsed, "is_causal", True), True),
        "layer_types": (sorted(set(layer_types) - {"full_attention"}), []),
        "rope_type": (kind, "default"),
        "rope_theta": (theta, config.rope_theta),
    }
    if tied is not None:
        pairs["tie_word_embeddings"] = (bool(tied), config.tie_embeddings)
    if config.mrope_sections is not None:
        axes = np.zeros(head_dim // 2, int)
        for axis in (1, 2):  # as models/qwen3_vl lays them out
            axes[slice(axis, (sections or [24, 20, 20])[axis] * 3, 3)] = axis
        pairs["mrope_section"] = (axes.tolist(), rope.section_axes(config.mrope_sections).tolist())
    return _compare(parsed, config, DECODER, "") + _unequal(pairs, "")


def _rope(parsed: Any) -> tuple[Any, float, list | None]:
    """Type, theta and sections, of either generation."""
    params = getattr(parsed, "rope_parameters", None)
    if params is None:
        params = dict(parsed.rope_scaling or {}) | {"rope_theta": parsed.rope_theta}
    kind = params.get("rope_type", "default")
    return ("default" if kind == "axial" else kind), float(params["rope_theta"]), params.get("mrope_section")


def _compare(parsed: Any, config: Any, table: dict[str, str], prefix: str) -> list[str]:
    return _unequal(
        {
            hf_name: (getattr(parsed, hf_name), getattr(config, our_name))
            for hf_name, our_name in table.items()
        },
        prefix,
    )


def _unequal(pairs: dict[str, tuple], prefix: str) -> list[str]:
    return [
        f"{prefix}{name} is {our_value} in model.json, transformers {version()} reads {hf_value}"
        for name, (hf_value, our_value) in pairs.items()
        if hf_value != our_value
    ]
