"""Our dataclasses -> Hugging Face config.json, as the published files are written."""

import dataclasses
from typing import Any

from convert import hf_config
from convert.hf_fields import THETA
from tempo_jax.errors import TempoError
from tempo_jax.models import config as cfg


def export(kind: str, config: Any, origin: dict, dtype: str) -> dict:
    """A config.json for a native model: the original one, brought up to date where the model changed.

    `dtype`: of the exported embeddings.
    """
    values = dict(origin.get("config") or {})
    fresh = _generate(kind, config)
    if not values:
        values = fresh
    elif not describes(kind, config, values):
        values |= {k: v for k, v in fresh.items() if k != "architectures"}
    if dtype != origin.get("source_dtype"):
        values.pop("torch_dtype", None)
        values["dtype"] = dtype
    return values


def describes(kind: str, config: Any, values: dict) -> bool:
    """Whether a config.json means `config`, as far as it says (Tempo's leaves the compressor out)."""
    try:
        return _reparse(kind, config, values) == config
    except (KeyError, TypeError, AttributeError, TempoError):
        return False


def _reparse(kind: str, config: Any, values: dict) -> Any:
    """Parses `values`, with missing fields taken from `config`."""
    if kind == "qwen3":
        return hf_config.qwen3(values, [])
    if kind == "qwen3-vl":
        # Which ids stand for pictures is the tokenizer's business, and was checked where it is.
        return hf_config.qwen3_vl({k: v for k, v in values.items() if k not in hf_config.SPECIAL_IDS}, [])
    if kind == "xcomp":
        parsed = hf_config.xcomp(values, config.vision, {}, [])
        # of which config.json knows nothing
        unstated_fields = ("frame_tokens", "compression", "score_layers", "eos_ids")
    else:
        parsed = hf_config.tempo(values, config.compressor, (), {}, [])
        unstated_fields = ("eos_ids", "video")
    return dataclasses.replace(parsed, **{name: getattr(config, name) for name in unstated_fields})


def _generate(kind: str, config: Any) -> dict:
    if kind == "qwen3":
        qwen2 = config.qkv_bias
        return _decoder_json(config) | {
            "architectures": ["Qwen2ForCausalLM" if qwen2 else "Qwen3ForCausalLM"],
            "model_type": "qwen2" if qwen2 else "qwen3",
        }
    if kind == "qwen3-vl":
        return qwen3_vl_json(config)
    if kind == "xcomp":
        return _xcomp_json(config)
    return _decoder_json(config.llm) | {
        "architectures": ["TempoQwenForCausalLM"],
        "model_type": "tempo_qwen",
        "eos_token_id": config.eos_ids[0] if len(config.eos_ids) == 1 else list(config.eos_ids),
        "bos_token_id": cfg.QWEN_IDS.end_of_text,
        "mm_vision_tower_aux_list": [hf_config.BASE_NAME],
        "mm_projector_type": config.projector,
        "mm_hidden_size": config.compressor.text.hidden_size,
        "num_compression_tokens": config.memory_tokens,
        "tokenizer_model_max_length": config.context_length,
        "mm_use_im_start_end": False,
    }


def _xcomp_json(config: cfg.XCompConfig) -> dict:
    values, llm = _decoder_json(config.llm), config.llm
    values.pop("attention_bias")  # no field of Qwen2, which always has it
    if llm.head_dim * llm.num_heads == llm.hidden_size:
        values.pop("head_dim")
    return values | {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "qwen2",
        "eos_token_id": list(config.eos_ids),
        "bos_token_id": cfg.QWEN_IDS.end_of_text,
        "mm_vision_tower": "umt-hd-large",
        "mm_vision_select_layer": -2,
        "mm_projector_type": "tome16_mlp_hd64",
        "mm_hidden_size": config.vision.hidden_size,
        "mm_local_num_frames": config.clip_frames,
        "mm_pos_num_frames": config.clip_frames,
        "mm_patch_merge_type": "flat",
        "tokenizer_model_max_length": config.context_length,
        "max_position_embeddings": config.context_length,
        "use_sliding_window": False,
    }


def _decoder_json(config: cfg.DecoderConfig) -> dict:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "tie_word_embeddings": config.tie_embeddings,
    }


def qwen3_vl_json(config: cfg.Qwen3VLConfig) -> dict:
    """A config.json as transformers 4.57 writes it for Qwen3-VL."""
    vision = dataclasses.asdict(config.vision)
    vision["deepstack_visual_indexes"] = list(vision.pop("deepstack_layers"))
    theta = vision.pop("rope_theta")
    if theta != THETA:  # only transformers 5 has the setting
        vision["rope_parameters"] = {"rope_type": "axial", "rope_theta": theta}
    text = _decoder_json(config.text) | {
        "model_type": "qwen3_vl_text",
        "rope_scaling": {
            "mrope_interleaved": True,
            "mrope_section": list(config.text.mrope_sections or (24, 20, 20)),
            "rope_type": "default",
        },
    }
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": cfg.QWEN_IDS.image_pad,
        "video_token_id": cfg.QWEN_IDS.video_pad,
        "vision_start_token_id": cfg.QWEN_IDS.vision_start,
        "vision_end_token_id": cfg.QWEN_IDS.vision_end,
        "tie_word_embeddings": config.text.tie_embeddings,
        "text_config": text,
        "vision_config": vision | {"model_type": "qwen3_vl", "hidden_act": "gelu_pytorch_tanh"},
    }
