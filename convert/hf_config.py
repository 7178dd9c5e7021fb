"""Hugging Face config.json -> our dataclasses; the way back is hf_export.

Reference: docs/reference/tempo.md#compressor to #global-llm and #tensor-names,
docs/reference/xcomp.md#components.
"""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from convert.hf_fields import (
    FIXED_TEXT,
    FIXED_VISION,
    NOT_OF_QWEN2,
    THETA,
    Fields,
    check_layers,
    rope,
    sections,
)
from tempo_jax.errors import TempoError
from tempo_jax.models import config as cfg

MODEL_TYPES = {
    "tempo": ("tempo_qwen",),
    "qwen3": ("qwen3", "qwen2"),
    "qwen3-vl": ("qwen3_vl",),
    "xcomp": ("qwen2", "videochat_flash_qwen"),  # as XComp was trained, and as it is evaluated
}
PROJECTOR_KEY = re.compile(r"(?:model\.)?mm_projector\.(?:(\d+)\.)?weight")
BASE_NAME = "Qwen/Qwen3-VL-2B-Instruct"
# Field of a Qwen3-VL config.json -> the token that our prompts put there.
SPECIAL_IDS = {
    "image_token_id": "image_pad",
    "video_token_id": "video_pad",
    "vision_start_token_id": "vision_start",
    "vision_end_token_id": "vision_end",
}


def read_json(folder: Path, name: str = "config.json", *, required: bool = True) -> dict:
    """A JSON object of a checkpoint folder; {} for one that is not there and not required."""
    path = Path(folder) / name
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


def parse(
    kind: str,
    folder: Path,
    names: Collection[str],
    base: Path | None = None,
    notes: list[str] | None = None,
) -> Any:
    """The config dataclass of an HF checkpoint folder.

    `names`: the tensors in the checkpoint; they decide what config.json leaves out (projector, vision
    tower). `base`: folder of the Qwen3-VL base model, whose config.json holds the compressor's
    architecture (kind "tempo"). `notes`: takes what is read differently by another transformers.
    Raises TempoError.
    """
    values = read_json(folder)
    check_model_type(kind, values, folder)
    notes = [] if notes is None else notes
    try:
        if kind == "qwen3":
            return qwen3(values, notes)
        if kind == "qwen3-vl":
            return qwen3_vl(values, notes, ids=tokenizer_ids(folder))
        if kind == "xcomp":
            generation = read_json(folder, "generation_config.json", required=False)
            return xcomp(values, umt(names, folder), generation, notes)
        if base is None:
            raise TempoError(
                "converting Tempo needs the base model too (its architecture and its Yes and No rows): "
                f"pass --base with the folder of {BASE_NAME}"
            )
        base_values = read_json(base)
        check_model_type("qwen3-vl", base_values, base)
        svlm = qwen3_vl(base_values, notes, headless=True, ids=tokenizer_ids(base))
        return tempo(values, svlm, names, read_json(folder, "generation_config.json", required=False), notes)
    except KeyError as error:
        location = folder / "config.json" if base is None else f"config.json in {folder} or {base}"
        raise TempoError(f"{location} lacks the field {error}: fetch it again") from error


def check_model_type(kind: str, values: dict, folder: Path) -> None:
    """TempoError where a config.json is of another kind of model."""
    model_type = values.get("model_type")
    if model_type not in MODEL_TYPES[kind]:
        fits = [k for k, types in MODEL_TYPES.items() if model_type in types]
        advice = f"use --model={fits[0]}" if fits else f"expected {' or '.join(MODEL_TYPES[kind])}"
        if isinstance(model_type, str) and model_type.endswith("_moe"):
            advice = "models of mixed experts (MoE) are not supported, take a dense one"
        raise TempoError(
            f"{folder} is a {model_type!r} model (model_type), which --model={kind} does not read: {advice}"
        )


def qwen3(values: dict, notes: list[str]) -> cfg.DecoderConfig:
    """A Qwen2.5 or Qwen3 LLM."""
    fields = Fields.of_file(values)
    config = _decoder(fields, tied=fields.truth("tie_word_embeddings", False))
    fields.done("the text decoder")
    notes += fields.notes
    return config


def _decoder(fields: Fields, *, tied: bool, vl: bool = False) -> cfg.DecoderConfig:
    """A Qwen2.5, Qwen3 or Qwen3-VL text section."""
    values = fields.values
    qwen2 = values.get("model_type") == "qwen2"
    fields.fixed(FIXED_TEXT, NOT_OF_QWEN2 if qwen2 else ())
    hidden, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    if values.get("num_key_value_heads", 0) is None:
        kv_heads = heads
    else:
        kv_heads = fields.whole("num_key_value_heads", 32)
    if heads % kv_heads:
        fields.refuse(f"num_key_value_heads={kv_heads} for num_attention_heads={heads}")
    if qwen2 and not values.get("head_dim"):
        head_dim = hidden // heads
    else:
        head_dim = fields.whole("head_dim", 128)
    if head_dim % 2:
        fields.refuse(f"head_dim={head_dim} (odd)")
    layers = fields.whole("num_hidden_layers")
    if not vl:
        check_layers(fields, layers)
    turned = rope(fields, vl)
    return cfg.DecoderConfig(
        vocab_size=fields.whole("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.whole("intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rope_theta=turned.theta,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        qk_norm=not qwen2,
        qkv_bias=qwen2,
        tie_embeddings=tied,
        mrope_sections=sections(turned.sections, head_dim // 2) if vl else None,
    )


def qwen3_vl(
    values: dict, notes: list[str], *, headless: bool = False, ids: dict[str, int] | None = None
) -> cfg.Qwen3VLConfig:
    """A Qwen3-VL; `headless`: its language head does not matter (Tempo deletes the compressor's).

    `ids`: of the tokenizer beside it, by name; the published ones where there is none.
    """
    fields = Fields.of_file(values)
    for name, token in SPECIAL_IDS.items():
        published = getattr(cfg.QWEN_IDS, token)
        fields.fixed({name: ((ids or {}).get(token, published),)})
    text = fields.part("text_config")
    tied = True if headless else _tied_vl(fields, text)
    config = cfg.Qwen3VLConfig(
        vision=_vision(fields.part("vision_config")), text=_decoder(text, tied=tied, vl=True)
    )
    if config.vision.out_hidden_size != config.text.hidden_size:
        fields.refuse(f"vision_config.out_hidden_size={config.vision.out_hidden_size} beside "
                      f"text_config.hidden_size={config.text.hidden_size}")  # fmt: skip
    if len(config.vision.deepstack_layers) > config.text.num_layers:
        fields.refuse("more vision_config.deepstack_visual_indexes than text layers")
    fields.done("the model")
    notes += fields.notes
    return config


def tied_vl(values: dict) -> bool:
    """Whether a Qwen3-VL's head is its embedding."""
    fields = Fields.of_file(values)
    return _tied_vl(fields, fields.part("text_config"))


def _tied_vl(fields: Fields, text: Fields) -> bool:
    """transformers 5 reads it at the top, 4.57 in text_config."""
    read = {5: fields.truth("tie_word_embeddings", False), 4: text.truth("tie_word_embeddings", False)}
    return fields.differ("tie_word_embeddings", read[fields.generation], read[9 - fields.generation])


def _vision(fields: Fields) -> cfg.VisionConfig:
    fields.fixed(FIXED_VISION)
    hidden, heads = fields.whole("hidden_size"), fields.whole("num_heads")
    depth = fields.whole("depth")
    fields.fixed(
        {"num_attention_heads": (heads,), "num_hidden_layers": (depth,), "head_dim": (hidden // heads,)}
    )
    if hidden % heads or hidden // heads % 4:
        fields.refuse(f"num_heads={heads} for hidden_size={hidden}")
    taps = fields.wholes("deepstack_visual_indexes", (8, 16, 24))
    if len(set(taps)) < len(taps) or max(taps, default=0) >= depth:
        fields.refuse(f"deepstack_visual_indexes={list(taps)} for {depth} blocks")
    return cfg.VisionConfig(
        hidden_size=hidden,
        intermediate_size=fields.whole("intermediate_size"),
        depth=depth,
        num_heads=heads,
        out_hidden_size=fields.whole("out_hidden_size"),
        num_position_embeddings=fields.whole("num_position_embeddings", 2304),
        deepstack_layers=taps,
        patch_size=fields.whole("patch_size", 16),
        temporal_patch_size=fields.whole("temporal_patch_size", 2),
        spatial_merge_size=fields.whole("spatial_merge_size", 2),
        in_channels=fields.whole("in_channels", 3),
        rope_theta=_vision_theta(fields),
    )


def _vision_theta(fields: Fields) -> float:
    """4.57 has no such setting; "axial" is what transformers 5 calls the tower's only kind."""
    name = "rope_scaling" if fields.values.get("rope_scaling") else "rope_parameters"
    params = fields.values.get(name) or {}
    if not isinstance(params, dict):
        fields.refuse(name)
        params = {}
    kind = params.get("rope_type", params.get("type", "default"))
    if kind not in ("default", "axial"):
        fields.refuse(f"{name}.rope_type={kind!r}")
    beside = fields.values.get("rope_theta", THETA)
    theta = params.get("rope_theta", beside)
    if isinstance(theta, bool) or not isinstance(theta, int | float) or theta <= 0:
        fields.refuse(f"rope_theta={theta!r}")
        theta = THETA
    read = {4: THETA, 5: float(theta)}
    return fields.differ("rope_theta", read[fields.generation], read[9 - fields.generation])


def tempo(
    values: dict, svlm: cfg.Qwen3VLConfig, names: Collection[str], generation: dict, notes: list[str]
) -> cfg.TempoConfig:
    """The whole system; `svlm`: the base model's config."""
    # rope_scaling of the global LLM is forced to None by the authors' code.
    fields = Fields.of_file({k: v for k, v in values.items() if k != "rope_scaling"})
    projector = values.get("mm_projector_type", "linear")  # the default of the authors' code
    stored_projector = projector_in(names)
    if stored_projector is not None and stored_projector != projector:
        raise TempoError(
            f"config.json says mm_projector_type={projector!r} but the checkpoint holds a "
            f"{stored_projector!r} projector: correct config.json"
        )
    config = cfg.TempoConfig(
        compressor=svlm,
        llm=_decoder(fields, tied=fields.truth("tie_word_embeddings", False)),
        memory_tokens=fields.whole("num_compression_tokens"),
        projector=projector,
        context_length=fields.whole("tokenizer_model_max_length", 16_384),
        eos_ids=eos_ids(values, generation),
    )
    fields.done("the model")
    notes += fields.notes
    return config


UMT_BLOCK = re.compile(r"(?:model\.)?vision_tower\.vision_tower\.encoder\.blocks\.(\d+)\.norm1\.weight")
UMT_PATCH = "vision_tower.vision_tower.encoder.patch_embed.proj.weight"
UMT_HEAD = 64  # channels of one of the tower's heads
# As XComp was released; others are refused.
FIXED_XCOMP = {"mm_projector_type": ("tome16_mlp_hd64",), "mm_vision_tower": ("umt-hd-large",)}


def umt(infos: Any, folder: Path) -> cfg.UMTConfig:
    """The vision tower that the tensors show: config.json only names it.

    `infos`: tensor name -> anything with a `.shape`.
    """
    blocks = [match for match in map(UMT_BLOCK.fullmatch, infos) if match]
    patch_name = next((name for name in (f"model.{UMT_PATCH}", UMT_PATCH) if name in infos), None)
    if patch_name is None or not blocks:
        raise TempoError(
            f"{folder} holds no UMT vision tower (model.vision_tower.vision_tower.encoder.*): give "
            "XComp's or VideoChat-Flash's checkpoint"
        )
    if len(infos[patch_name].shape) != 5:
        raise TempoError(
            f"{folder}: {patch_name} is {list(infos[patch_name].shape)}, no convolution over video"
        )
    width, channels, _, patch, _ = infos[patch_name].shape
    hidden = infos.get(patch_name.replace("patch_embed.proj", "blocks.0.mlp.fc1"))
    return cfg.UMTConfig(
        hidden_size=width,
        intermediate_size=4 * width if hidden is None else hidden.shape[0],
        depth=1 + max(int(match[1]) for match in blocks),
        num_heads=max(1, width // UMT_HEAD),
        patch_size=patch,
        in_channels=channels,
    )


def xcomp(values: dict, vision: cfg.UMTConfig, generation: dict, notes: list[str]) -> cfg.XCompConfig:
    """The config of an XComp; LP-Comp's settings, which config.json lacks, are those of the authors' code."""
    fields = Fields.of_file(values | {"model_type": "qwen2"})
    fields.fixed(FIXED_XCOMP)
    config = cfg.XCompConfig(
        vision=vision,
        llm=_decoder(fields, tied=fields.truth("tie_word_embeddings", False)),
        clip_frames=fields.whole("mm_local_num_frames", 8),
        context_length=fields.whole("tokenizer_model_max_length", 32_768),
        eos_ids=eos_ids(values, generation),
    )
    fields.done("the model")
    notes += fields.notes
    return config


def projector_in(names: Collection[str]) -> str | None:
    """The projector type that the tensor names show; None without tensor names."""
    if not names:
        return None
    matches = [match for match in map(PROJECTOR_KEY.fullmatch, names) if match]
    if not matches:
        return "identity"
    return "linear" if matches[0][1] is None else f"mlp{len(matches)}x_gelu"


def eos_ids(*configs: dict) -> tuple[int, ...]:
    """End-of-sequence ids of all configs, always with <|im_end|>, in a stable order."""
    ids = [cfg.QWEN_IDS.im_end]
    for values in configs:
        token_ids = values.get("eos_token_id")
        token_ids = token_ids if isinstance(token_ids, list) else [] if token_ids is None else [token_ids]
        if not all(type(x) is int and x >= 0 for x in token_ids):
            raise TempoError(f"eos_token_id is {values['eos_token_id']!r}, not the number of a token")
        ids += token_ids
    return tuple(dict.fromkeys(ids))


def tokenizer_ids(folder: Path) -> dict[str, int]:
    """Name (as in SpecialIds) -> id of the special tokens that the tokenizer beside a model has."""
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        return {}
    try:
        added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens", [])
        ids = {token["content"]: token["id"] for token in added}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # a damaged tokenizer is reported where it is used
    return {name: ids[f"<|{name}|>"] for name in cfg.SpecialIds._fields if f"<|{name}|>" in ids}
