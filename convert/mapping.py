"""The mapping between Hugging Face tensors and native arrays: one table for both directions.

Reference: docs/reference/tempo.md#tensor-names and docs/reference/xcomp.md#weight-names.
Reading, writing, verification and the expected shapes all come from `tensors(kind, config)`.
"""

import dataclasses
import re
from collections.abc import Collection
from typing import Any

import numpy as np

from tempo_jax.errors import TempoError
from tempo_jax.models import config as cfg

DIRECTION = "compressor/relevance/direction"  # float32, from the base model: in no HF checkpoint of Tempo
SVLM = "model.vision_tower_aux_list.0."  # Tempo's compressor, as published
HEAD = "lm_head.weight"
PROJECTORS = re.compile(r"linear|identity|mlp([1-9]\d*)x_gelu")


@dataclasses.dataclass(frozen=True)
class TensorRule:
    """One line of the table.

    Example: with 2 layers, 4 heads of 8 and a width of 16, the rule

        TensorRule("layers.{layer}.self_attn.q_proj.weight", "layers/attention/q/kernel", ("Q", "D"),
                   "transpose")

    makes one TensorSpec: native "layers/attention/q/kernel" of shape [2, 16, 32] consists of
    layers.0.self_attn.q_proj.weight and layers.1.self_attn.q_proj.weight, [32, 16] each, which are
    transposed and stacked.

    Attributes:
      hf: name of the HF tensor; "{layer}" is replaced by 0, 1, …
      native: path of the native array.
      dims: names of the sizes of the HF tensor's axes.
      transform: one of the transforms below.
      when: field of the component's config that must be true; empty: always.
    """

    hf: str
    native: str
    dims: tuple[str, ...]
    transform: str = "copy"
    when: str = ""

    @property
    def stacked(self) -> bool:
        return "{layer}" in self.hf


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One native array and the HF tensors it consists of (one per layer when stacked)."""

    native: str
    hf: tuple[str, ...]
    hf_shape: tuple[int, ...]
    transform: str
    stacked: bool
    fields: tuple[str, ...] = ()  # of config.json, that the sizes come from

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Native shape of one HF tensor."""
        shape = matrix_shape(self.transform, self.hf_shape)
        return shape[::-1] if transposes(self.transform) else shape

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.hf), *self.part_shape) if self.stacked else self.part_shape


# Transforms. "copy": as it is; "transpose": [out,in] -> [in,out]; "patch": a convolution
# [out,channels,t,h,w] -> [channels*t*h*w, out]; "first": [1,K,D] -> [K,D].


def matrix_shape(transform: str, hf_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape to view the HF tensor's memory in, before any transposition."""
    if transform == "patch":
        return (hf_shape[0], int(np.prod(hf_shape[1:])))
    return hf_shape[1:] if transform == "first" else hf_shape


def transposes(transform: str) -> bool:
    return transform in ("transpose", "patch")


def to_native(transform: str, hf: np.ndarray) -> np.ndarray:
    """A view of an HF tensor in native layout; see `Tensor.part_shape`."""
    matrix = hf.reshape(matrix_shape(transform, hf.shape))
    return matrix.T if transposes(transform) else matrix


def to_hf(transform: str, native: np.ndarray, hf_shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_native`, contiguous."""
    matrix = native.T if transposes(transform) else native
    return np.ascontiguousarray(matrix).reshape(hf_shape)


def _linear(hf: str, native: str, out: str, inner: str) -> tuple[TensorRule, TensorRule]:
    return (
        TensorRule(f"{hf}.weight", f"{native}/kernel", (out, inner), "transpose"),
        TensorRule(f"{hf}.bias", f"{native}/bias", (out,)),
    )


def _norm(hf: str, native: str, size: str) -> tuple[TensorRule, TensorRule]:
    return TensorRule(f"{hf}.weight", f"{native}/scale", (size,)), TensorRule(
        f"{hf}.bias", f"{native}/bias", (size,)
    )


_ATTENTION, _MLP = "layers.{layer}.self_attn", "layers.{layer}.mlp"

# Relative to "model." or "...language_model."; sizes: V vocabulary, D width, Q/K all query/key heads,
# H one head, F MLP.
DECODER = (
    TensorRule("embed_tokens.weight", "embed/embedding", ("V", "D")),
    TensorRule(f"{_ATTENTION}.q_proj.weight", "layers/attention/q/kernel", ("Q", "D"), "transpose"),
    TensorRule(f"{_ATTENTION}.k_proj.weight", "layers/attention/k/kernel", ("K", "D"), "transpose"),
    TensorRule(f"{_ATTENTION}.v_proj.weight", "layers/attention/v/kernel", ("K", "D"), "transpose"),
    TensorRule(f"{_ATTENTION}.o_proj.weight", "layers/attention/o/kernel", ("D", "Q"), "transpose"),
    TensorRule(f"{_ATTENTION}.q_proj.bias", "layers/attention/q/bias", ("Q",), when="qkv_bias"),
    TensorRule(f"{_ATTENTION}.k_proj.bias", "layers/attention/k/bias", ("K",), when="qkv_bias"),
    TensorRule(f"{_ATTENTION}.v_proj.bias", "layers/attention/v/bias", ("K",), when="qkv_bias"),
    TensorRule(f"{_ATTENTION}.q_norm.weight", "layers/attention/q_norm/scale", ("H",), when="qk_norm"),
    TensorRule(f"{_ATTENTION}.k_norm.weight", "layers/attention/k_norm/scale", ("H",), when="qk_norm"),
    TensorRule(f"{_MLP}.gate_proj.weight", "layers/mlp/gate/kernel", ("F", "D"), "transpose"),
    TensorRule(f"{_MLP}.up_proj.weight", "layers/mlp/up/kernel", ("F", "D"), "transpose"),
    TensorRule(f"{_MLP}.down_proj.weight", "layers/mlp/down/kernel", ("D", "F"), "transpose"),
    TensorRule("layers.{layer}.input_layernorm.weight", "layers/attention_norm/scale", ("D",)),
    TensorRule("layers.{layer}.post_attention_layernorm.weight", "layers/mlp_norm/scale", ("D",)),
    TensorRule("norm.weight", "norm/scale", ("D",)),
)
HEAD_ROW = TensorRule(HEAD, "head/kernel", ("V", "D"), "transpose")  # only where embeddings are not tied

# Relative to "...visual."; sizes: D width, F MLP, P positions, M merged width (4 D), O output width;
# c, t, p: channels, temporal patch, patch side; Q: query, key and value together.
_BLOCK, _DEEP = "blocks.{layer}", "deepstack_merger_list.{layer}"
VISION = (
    TensorRule("patch_embed.proj.weight", "patch_embed/kernel", ("D", "c", "t", "p", "p"), "patch"),
    TensorRule("patch_embed.proj.bias", "patch_embed/bias", ("D",)),
    TensorRule("pos_embed.weight", "position/embedding", ("P", "D")),
    *_norm(f"{_BLOCK}.norm1", "blocks/norm1", "D"),
    *_norm(f"{_BLOCK}.norm2", "blocks/norm2", "D"),
    *_linear(f"{_BLOCK}.attn.qkv", "blocks/attention/qkv", "Q", "D"),
    *_linear(f"{_BLOCK}.attn.proj", "blocks/attention/proj", "D", "D"),
    *_linear(f"{_BLOCK}.mlp.linear_fc1", "blocks/mlp/fc1", "F", "D"),
    *_linear(f"{_BLOCK}.mlp.linear_fc2", "blocks/mlp/fc2", "D", "F"),
    *_norm("merger.norm", "merger/norm", "D"),
    *_linear("merger.linear_fc1", "merger/fc1", "M", "M"),
    *_linear("merger.linear_fc2", "merger/fc2", "O", "M"),
    *_norm(f"{_DEEP}.norm", "deepstack/norm", "M"),
    *_linear(f"{_DEEP}.linear_fc1", "deepstack/fc1", "M", "M"),
    *_linear(f"{_DEEP}.linear_fc2", "deepstack/fc2", "O", "M"),
)
# XComp's tower, relative to "...encoder."; F MLP, the other sizes as in VISION. Keys have no bias.
UMT = (
    TensorRule("patch_embed.proj.weight", "patch_embed/kernel", ("D", "c", "1", "p", "p"), "patch"),
    TensorRule("patch_embed.proj.bias", "patch_embed/bias", ("D",)),
    *_norm(f"{_BLOCK}.norm1", "blocks/norm1", "D"),
    *_norm(f"{_BLOCK}.norm2", "blocks/norm2", "D"),
    TensorRule(f"{_BLOCK}.attn.qkv.weight", "blocks/attention/qkv/kernel", ("Q", "D"), "transpose"),
    TensorRule(f"{_BLOCK}.attn.q_bias", "blocks/attention/q_bias", ("D",)),
    TensorRule(f"{_BLOCK}.attn.v_bias", "blocks/attention/v_bias", ("D",)),
    *_linear(f"{_BLOCK}.attn.proj", "blocks/attention/proj", "D", "D"),
    *_linear(f"{_BLOCK}.mlp.fc1", "blocks/mlp/fc1", "F", "D"),
    *_linear(f"{_BLOCK}.mlp.fc2", "blocks/mlp/fc2", "D", "F"),
    *_norm("vision_layernorm", "norm", "D"),
)
UMT_PREFIX, UMT_PROJECTOR = "model.vision_tower.vision_tower.encoder.", "model.mm_projector.mlp"
MEMORY = (TensorRule("compression_tokens", "memory/embedding", ("1", "K", "D"), "first"),)

MODEL = "model."  # before the names of everything but the head; a bare model is saved without
FIELDS = {
    "V": "vocab_size",
    "D": "hidden_size",
    "F": "intermediate_size",
    "Q": "num_attention_heads x head_dim",
    "K": "num_key_value_heads x head_dim",
    "H": "head_dim",
    "P": "num_position_embeddings",
    "M": "hidden_size x spatial_merge_size^2",
    "O": "out_hidden_size",
    "c": "in_channels",
    "t": "temporal_patch_size",
    "p": "patch_size",
}


def _expand(
    rows, hf: str, native: str, config: Any, dims: dict[str, int], counts: dict[str, int], section: str = ""
):
    """Expands rules to tensors; `section`: the section of config.json that has the sizes."""
    for row in rows:
        if row.when and not getattr(config, row.when):
            continue
        layers = range(counts[row.native.split("/")[0]]) if row.stacked else (0,)
        if row.stacked and not layers:
            continue
        names = tuple(hf + row.hf.replace("{layer}", str(i)) for i in layers)
        shape = tuple(dims[d] for d in row.dims)
        fields = tuple(section + FIELDS.get(d, "") for d in row.dims)
        yield TensorSpec(native + row.native, names, shape, row.transform, row.stacked, fields)


def decoder_tensors(config: cfg.DecoderConfig, hf: str, native: str, section: str = "") -> list[TensorSpec]:
    dims = {
        "V": config.vocab_size,
        "D": config.hidden_size,
        "F": config.intermediate_size,
        "Q": config.num_heads * config.head_dim,
        "K": config.num_kv_heads * config.head_dim,
        "H": config.head_dim,
    }
    counts = {"layers": config.num_layers}
    out = list(_expand(DECODER, hf, native, config, dims, counts, section))
    if not config.tie_embeddings:
        out += _expand((HEAD_ROW,), "", native, config, dims, counts, section)
    return out


def vision_tensors(config: cfg.VisionConfig, hf: str, native: str, section: str = "") -> list[TensorSpec]:
    dims = {
        "D": config.hidden_size,
        "F": config.intermediate_size,
        "P": config.num_position_embeddings,
        "M": config.hidden_size * config.spatial_merge_size**2,
        "O": config.out_hidden_size,
        "Q": 3 * config.hidden_size,
        "c": config.in_channels,
        "t": config.temporal_patch_size,
        "p": config.patch_size,
    }
    counts = {"blocks": config.depth, "deepstack": len(config.deepstack_layers)}
    return list(_expand(VISION, hf, native, config, dims, counts, section))


def projector_tensors(config: cfg.TempoConfig) -> list[TensorSpec]:
    """`linear` is named without an index, the layers of `mlpNx_gelu` are 0, 2, 4, …"""
    match = PROJECTORS.fullmatch(config.projector)
    if not match:
        raise TempoError(
            f"the projector type {config.projector!r} is unknown: expected linear, mlp2x_gelu or identity"
        )
    dims = {"I": config.compressor.text.hidden_size, "D": config.llm.hidden_size}
    if config.projector == "identity":
        return []
    names = [("", 0)] if match[1] is None else [(f".{2 * i}", 2 * i) for i in range(int(match[1]))]
    out: list[TensorSpec] = []
    for i, (suffix, index) in enumerate(names):
        rows = _linear(f"model.mm_projector{suffix}", f"projector/layers/{index}", "D", "D" if i else "I")
        out += _expand(rows, "", "", config, dims, {})
    return out


def xcomp_tensors(config: cfg.XCompConfig) -> list[TensorSpec]:
    vision = config.vision
    dims = {
        "D": vision.hidden_size,
        "F": vision.intermediate_size,
        "Q": 3 * vision.hidden_size,
        "O": config.llm.hidden_size,
        "c": vision.in_channels,
        "p": vision.patch_size,
        "1": 1,
    }
    projector = (
        *_linear(f"{UMT_PROJECTOR}.0", "projector/layers/0", "O", "D"),
        *_linear(f"{UMT_PROJECTOR}.2", "projector/layers/2", "O", "O"),
    )
    return [
        *_expand(UMT, UMT_PREFIX, "vision/", vision, dims, {"blocks": vision.depth}),
        *_expand(projector, "", "", config, dims, {}),
        *decoder_tensors(config.llm, "model.", "llm/"),
    ]


def tensors(kind: str, config: Any, *, bare: bool = False) -> list[TensorSpec]:
    """Every native array that HF files hold; Tempo's relevance direction is not among them.

    `bare`: by the names of a model that was saved without its language head, which lack "model.".
    """
    rules = _tensors(kind, config)
    if not bare:
        return rules
    return [dataclasses.replace(t, hf=tuple(bare_name(name) for name in t.hf)) for t in rules]


def bare_name(name: str) -> str:
    """The name that a tensor has in a model saved without its head."""
    return name.removeprefix(MODEL)


def is_bare(kind: str, names: Collection[str]) -> bool:
    """Whether a checkpoint's tensors are named as those of a bare model."""
    embed = f"{MODEL}{TEXT_PREFIX[kind]}embed_tokens.weight"
    return embed not in names and bare_name(embed) in names


TEXT_PREFIX = {"qwen3": "", "qwen3-vl": "language_model.", "tempo": "", "xcomp": ""}


def _tensors(kind: str, config: Any) -> list[TensorSpec]:
    if kind == "qwen3":
        return decoder_tensors(config, MODEL, "")
    if kind == "qwen3-vl":
        return [
            *vision_tensors(config.vision, f"{MODEL}visual.", "vision/", "vision_config."),
            *decoder_tensors(config.text, f"{MODEL}language_model.", "text/", "text_config."),
        ]
    if kind == "tempo":
        svlm, model = config.compressor, f"{SVLM}vlm.model."
        dims = {"1": 1, "K": config.memory_tokens, "D": svlm.text.hidden_size}
        return [
            *vision_tensors(svlm.vision, f"{model}visual.", "compressor/vision/", "vision_config."),
            *decoder_tensors(svlm.text, f"{model}language_model.", "compressor/text/", "text_config."),
            *_expand(MEMORY, SVLM, "compressor/", config, dims, {}),
            *projector_tensors(config),
            *decoder_tensors(config.llm, MODEL, "llm/"),
        ]
    if kind == "xcomp":
        return xcomp_tensors(config)
    raise TempoError(f"the model kind {kind!r} is unknown: expected one of {', '.join(cfg.KINDS)}")


def native_shapes(kind: str, config: Any) -> dict[str, tuple[int, ...]]:
    """Path -> shape of the whole native tree."""
    shapes = {t.native: t.shape for t in tensors(kind, config)}
    if kind == "tempo":
        shapes[DIRECTION] = (config.compressor.text.hidden_size,)
    return shapes


def tied_heads(kind: str, config: Any, tensors_list: list[TensorSpec]) -> dict[str, str]:
    """Redundant head tensors a checkpoint may store -> the embedding each must equal."""
    embed = {t.native: t.hf[0] for t in tensors_list if t.native.endswith("embed/embedding")}
    if kind == "qwen3":
        return {HEAD: embed["embed/embedding"]} if config.tie_embeddings else {}
    if kind == "qwen3-vl":
        return {HEAD: embed["text/embed/embedding"]} if config.text.tie_embeddings else {}
    heads = {}
    if kind == "tempo":
        svlm = embed["compressor/text/embed/embedding"]
        heads[svlm.replace("model.language_model.embed_tokens.weight", HEAD)] = svlm
    return heads | ({HEAD: embed["llm/embed/embedding"]} if config.llm.tie_embeddings else {})
