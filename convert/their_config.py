"""A checkpoint's configuration as transformers itself parses it, against that of a native checkpoint.

Nothing of `hf_config` is used here, so that a mistake of our reading shows. No PyTorch is needed.
"""

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

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
    """Of the transformers that is installed."""
    import transformers

    return transformers.__version__


def differences(
    kind: str, config: Any, folder: str | os.PathLike, base: str | os.PathLike | None = None
) -> list[str]:
    """Where transformers reads a folder's config.json otherwise than `config`: a phrase each."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    values = _read(folder)
    try:
        if kind == "qwen3-vl":
            return _vl(transformers.Qwen3VLConfig.from_dict(values), config)
        qwen2 = kind == "xcomp" or values.get("model_type") == "qwen2"
        if kind == "tempo":  # the released code sets the LLM's rope_scaling to None
            values.pop("rope_scaling", None)
        values.pop("model_type", None)
        parsed = (transformers.Qwen2Config if qwen2 else transformers.Qwen3Config).from_dict(values)
        found = _decoder(parsed, config if kind == "qwen3" else config.llm, parsed.tie_word_embeddings)
        if kind == "tempo" and base is not None:
            found += _vl(transformers.Qwen3VLConfig.from_dict(_read(base)), config.compressor, headless=True)
        return found
    except Exception as error:  # whatever its checks raise
        reason = " ".join(str(error).split())[:200]
        return [f"transformers {version()} does not read it: {reason}"]


def _read(folder: str | os.PathLike) -> dict:
    return copy.deepcopy(json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")))


def _vl(parsed: Any, config: cfg.Qwen3VLConfig, headless: bool = False) -> list[str]:
    text, vision = parsed.text_config, parsed.vision_config
    tied = parsed.tie_word_embeddings if int(version().split(".")[0]) >= 5 else text.tie_word_embeddings
    found = _decoder(text, config.text, None if headless else tied)
    found += _compare(vision, config.vision, VISION, "vision_config.")
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
    return found + _unequal(pairs, "vision_config.")


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


def _compare(parsed: Any, config: Any, table: dict[str, str], where: str) -> list[str]:
    return _unequal(
        {theirs: (getattr(parsed, theirs), getattr(config, ours)) for theirs, ours in table.items()}, where
    )


def _unequal(pairs: dict[str, tuple], where: str) -> list[str]:
    return [
        f"{where}{name} is {ours} in model.json, transformers {version()} reads {theirs}"
        for name, (theirs, ours) in pairs.items()
        if theirs != ours
    ]
