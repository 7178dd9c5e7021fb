"""Hugging Face config.json <-> our dataclasses.

Understands transformers 4.57 (rope_theta and rope_scaling side by side) and 5.x (`rope_parameters`).
Sources: facts/tempo.md §1.2-1.6, §8 (fields of Tempo's config), §1.9 (end-of-sequence ids).
"""

import dataclasses
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tempo_jax.errors import TempoError
from tempo_jax.models import config as cfg

MODEL_TYPES = {
    "tempo": ("tempo_qwen",),
    "qwen3": ("qwen3", "qwen2"),
    "qwen3-vl": ("qwen3_vl",),
    "xcomp": ("qwen2", "videochat_flash_qwen"),  # as XComp was trained, and as it is evaluated
}
PROJECTOR_KEY = re.compile(r"model\.mm_projector\.(?:(\d+)\.)?weight")
BASE_NAME = "Qwen/Qwen3-VL-2B-Instruct"


def read_json(folder: Path, name: str = "config.json", *, required: bool = True) -> dict:
    path = folder / name
    if not path.is_file():
        if not required:
            return {}
        raise TempoError(f"{folder} holds no {name}: give the folder of a Hugging Face checkpoint")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TempoError(f"{path} is not JSON ({error}): fetch it again") from error
    if not isinstance(values, dict):
        raise TempoError(f"{path} does not hold a JSON object: fetch it again")
    return values


def parse(kind: str, folder: Path, names: Collection[str], base: Path | None = None) -> Any:
    """The config dataclass of an HF checkpoint folder.

    `names`: the tensors in the checkpoint; they decide what config.json leaves out (tied embeddings,
    projector). `base`: folder of the Qwen3-VL base model, whose config.json holds the compressor's
    architecture (kind "tempo"). Raises TempoError.
    """
    values = read_json(folder)
    check_model_type(kind, values, folder)
    try:
        if kind == "qwen3":
            return decoder(values, tied=_tied(values, names))
        if kind == "qwen3-vl":
            return qwen3_vl(values, names)
        if kind == "xcomp":
            generation = read_json(folder, "generation_config.json", required=False)
            return xcomp(values, umt(names, folder), tied=_tied(values, names), generation=generation)
        if base is None:
            raise TempoError(
                "converting Tempo needs the base model too (its architecture and its Yes and No rows): "
                f"pass --base with the folder of {BASE_NAME}"
            )
        base_values = read_json(base)
        check_model_type("qwen3-vl", base_values, base)
        return tempo(values, base_values, names, read_json(folder, "generation_config.json", required=False))
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, TempoError):
            raise
        raise TempoError(
            f"config.json in {folder} has a field of the wrong type ({error}): fetch it again"
        ) from error
    except KeyError as error:
        where = folder / "config.json" if base is None else f"config.json in {folder} or {base}"
        raise TempoError(f"{where} lacks the field {error}: fetch it again") from error


def check_model_type(kind: str, values: dict, folder: Path) -> None:
    found = values.get("model_type")
    if found not in MODEL_TYPES[kind]:
        fits = [k for k, types in MODEL_TYPES.items() if found in types]
        advice = f"use --model={fits[0]}" if fits else f"expected {' or '.join(MODEL_TYPES[kind])}"
        raise TempoError(f"{folder} is a {found!r} model, which --model={kind} does not read: {advice}")


def decoder(values: dict, *, tied: bool, mrope: bool = False) -> cfg.DecoderConfig:
    """A Qwen2.5, Qwen3 or Qwen3-VL text config."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    qwen2 = values.get("model_type") == "qwen2"
    unsupported = [
        f"{name}={value!r}"
        for name, value, allowed in (
            ("rope_type", rope_type, ("default", "mrope") if mrope else ("default",)),
            ("hidden_act", values.get("hidden_act", "silu"), ("silu",)),
            ("attention_bias", bool(values.get("attention_bias")), (False,)),
            ("use_sliding_window", bool(values.get("use_sliding_window")), (False,)),
        )
        if value not in allowed
    ]
    if unsupported:
        raise TempoError(f"the text decoder uses {', '.join(unsupported)}, which is not supported")
    return cfg.DecoderConfig(
        vocab_size=values["vocab_size"],
        hidden_size=values["hidden_size"],
        intermediate_size=values["intermediate_size"],
        num_layers=values["num_hidden_layers"],
        num_heads=values["num_attention_heads"],
        num_kv_heads=values["num_key_value_heads"],
        head_dim=values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"],
        rope_theta=float(values["rope_theta"] if "rope_theta" in values else rope["rope_theta"]),
        rms_norm_eps=float(values["rms_norm_eps"]),
        qk_norm=not qwen2,
        qkv_bias=qwen2,
        tie_embeddings=tied,
        mrope_sections=tuple(rope.get("mrope_section", (24, 20, 20))) if mrope else None,
    )


def qwen3_vl(values: dict, names: Collection[str] | None) -> cfg.Qwen3VLConfig:
    """`names` None: the language head does not matter (Tempo deletes the compressor's, facts §1.2)."""
    text, vision = values["text_config"], values["vision_config"]
    if vision.get("hidden_act", "gelu_pytorch_tanh") != "gelu_pytorch_tanh":
        raise TempoError(f"the vision tower uses hidden_act={vision['hidden_act']!r}, which is not supported")
    tied = True if names is None else _tied(text | values, names)
    return cfg.Qwen3VLConfig(
        vision=cfg.VisionConfig(
            hidden_size=vision["hidden_size"],
            intermediate_size=vision["intermediate_size"],
            depth=vision["depth"],
            num_heads=vision["num_heads"],
            out_hidden_size=vision["out_hidden_size"],
            num_position_embeddings=vision["num_position_embeddings"],
            deepstack_layers=tuple(vision["deepstack_visual_indexes"]),
            patch_size=vision.get("patch_size", 16),
            temporal_patch_size=vision.get("temporal_patch_size", 2),
            spatial_merge_size=vision.get("spatial_merge_size", 2),
            in_channels=vision.get("in_channels", 3),
        ),
        text=decoder(text, tied=tied, mrope=True),
    )


def tempo(values: dict, base: dict, names: Collection[str], generation: dict) -> cfg.TempoConfig:
    # rope_scaling of the global LLM is forced to None by the released code (facts §1.6).
    plain = {k: v for k, v in values.items() if k != "rope_scaling"}
    projector = values.get("mm_projector_type", "linear")  # the released code's default (facts §1.5)
    found = projector_in(names)
    if found is not None and found != projector:
        raise TempoError(
            f"config.json says mm_projector_type={projector!r} but the checkpoint holds a {found!r} "
            "projector: correct config.json"
        )
    return cfg.TempoConfig(
        compressor=qwen3_vl(base, None),
        llm=decoder(plain, tied=_tied(values, names)),
        memory_tokens=values["num_compression_tokens"],
        projector=projector,
        context_length=values.get("tokenizer_model_max_length", 16_384),
        eos_ids=eos_ids(values, generation),
    )


UMT_BLOCK = re.compile(r"model\.vision_tower\.vision_tower\.encoder\.blocks\.(\d+)\.norm1\.weight")
UMT_PATCH = "model.vision_tower.vision_tower.encoder.patch_embed.proj.weight"
UMT_HEAD = 64  # channels of one of the tower's heads


def umt(infos: Any, folder: Path) -> cfg.UMTConfig:
    """The vision tower that the tensors show: config.json only names it (facts/xcomp.md §1.2).

    `infos`: tensor name -> anything with a `.shape`.
    """
    blocks = [match for match in map(UMT_BLOCK.fullmatch, infos) if match]
    if UMT_PATCH not in infos or not blocks:
        raise TempoError(
            f"{folder} holds no UMT vision tower (model.vision_tower.vision_tower.encoder.*): give "
            "XComp's or VideoChat-Flash's checkpoint"
        )
    width, channels, _, patch, _ = infos[UMT_PATCH].shape
    hidden = infos.get(UMT_PATCH.replace("patch_embed.proj", "blocks.0.mlp.fc1"))
    return cfg.UMTConfig(
        hidden_size=width,
        intermediate_size=4 * width if hidden is None else hidden.shape[0],
        depth=1 + max(int(match[1]) for match in blocks),
        num_heads=max(1, width // UMT_HEAD),
        patch_size=patch,
        in_channels=channels,
    )


def xcomp(values: dict, vision: cfg.UMTConfig, *, tied: bool, generation: dict) -> cfg.XCompConfig:
    """facts/xcomp.md §1.1, §1.3; LP-Comp's settings are no part of config.json: as released."""
    for name, allowed in (("mm_projector_type", "tome16_mlp_hd64"), ("mm_vision_tower", "umt-hd-large")):
        if values.get(name, allowed) != allowed:
            raise TempoError(f"the model uses {name}={values[name]!r}, which is not supported")
    return cfg.XCompConfig(
        vision=vision,
        llm=decoder(values | {"model_type": "qwen2"}, tied=tied),
        clip_frames=values.get("mm_local_num_frames", 8),
        context_length=values.get("tokenizer_model_max_length", 32_768),
        eos_ids=eos_ids(values, generation),
    )


def projector_in(names: Collection[str]) -> str | None:
    """The projector type that the tensor names show (facts §1.5); None without tensor names."""
    if not names:
        return None
    found = [match for match in map(PROJECTOR_KEY.fullmatch, names) if match]
    if not found:
        return "identity"
    return "linear" if found[0][1] is None else f"mlp{len(found)}x_gelu"


def eos_ids(*configs: dict) -> tuple[int, ...]:
    """End-of-sequence ids of all configs, always with <|im_end|> (facts §1.9), in a stable order."""
    ids = [cfg.QWEN_IDS.im_end]
    for values in configs:
        found = values.get("eos_token_id")
        ids += found if isinstance(found, list) else [] if found is None else [found]
    return tuple(dict.fromkeys(ids))


def _tied(values: dict, names: Collection[str]) -> bool:
    stated = values.get("tie_word_embeddings")
    return "lm_head.weight" not in names if stated is None else bool(stated)


# The way back.


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
    """What `values` mean, with everything that they do not say taken from `config`."""
    if kind == "qwen3":
        return decoder(values, tied=_stated_tie(values, config))
    if kind == "qwen3-vl":
        names = () if _stated_tie(values["text_config"] | values, config.text) else ("lm_head.weight",)
        return qwen3_vl(values, names)
    names = () if config.llm.tie_embeddings else ("lm_head.weight",)
    if kind == "xcomp":
        found = xcomp(values, config.vision, tied=_tied(values, names), generation={})
        ours = (
            "frame_tokens",
            "compression",
            "score_layers",
            "eos_ids",
        )  # of which config.json knows nothing
        return dataclasses.replace(found, **{name: getattr(config, name) for name in ours})
    plain = {k: v for k, v in values.items() if k != "rope_scaling"}
    return dataclasses.replace(
        config,
        llm=decoder(plain, tied=_tied(values, names)),
        memory_tokens=values.get("num_compression_tokens"),
        projector=values.get("mm_projector_type", "linear"),
        context_length=values.get("tokenizer_model_max_length", 16_384),
    )


def _stated_tie(values: dict, config: cfg.DecoderConfig) -> bool:
    return bool(values.get("tie_word_embeddings", config.tie_embeddings))


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
        "mm_vision_tower_aux_list": [BASE_NAME],
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
