"""Hugging Face folders as PyTorch models in float32: what `convert.verify --logits` compares with.

Architectures and weights come from transformers' own classes; Tempo and XComp, which it has none of, are
put together from its Qwen models and the few layers between. Needs the test extra (PyTorch). No code of a
checkpoint is ever run.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional as F

from convert import hf_config, mapping, overlays
from convert.safetensors_io import Reader
from tempo_jax.models import umt

try:
    from transformers.initialization import no_init_weights
except ImportError:  # 4.57
    from transformers.modeling_utils import no_init_weights

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
EAGER = {"attn_implementation": "eager", "dtype": torch.float32}
UMT_EPS = 1e-6  # of the tower's blocks


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, float32, named as in a whole model."""
    values = hf_config.read_json(folder)
    block = overlays.fp8_block(values)
    with Reader(folder, values.get("transformers_weights")) as reader:
        plain = overlays.Fp8(reader, block) if block else reader
        found = {name: torch.from_numpy(plain.read(name).astype(np.float32)) for name in plain.infos}
    if any(name.startswith(mapping.MODEL) for name in found):
        return found
    return {name if name == mapping.HEAD else f"model.{name}": x for name, x in found.items()}


def decoder(folder: Path) -> torch.nn.Module:
    """A Qwen2.5 or Qwen3 LLM."""
    values = hf_config.read_json(folder)
    if overlays.fp8_block(values):  # transformers dequantizes with a further package (accelerate) only
        qwen2 = values["model_type"] == "qwen2"
        kind = transformers.Qwen2ForCausalLM if qwen2 else transformers.Qwen3ForCausalLM
        return _part(kind, _plain_config(kind, values), tensors(folder))
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **EAGER).eval()


def qwen3_vl(folder: Path) -> torch.nn.Module:
    """A Qwen3-VL."""
    values = hf_config.read_json(folder)
    if overlays.fp8_block(values):
        return _part(_VL, _plain_config(_VL, values), tensors(folder))
    return _VL.from_pretrained(folder, **EAGER).eval()


def _plain_config(kind: type, values: dict) -> Any:
    return kind.config_class.from_dict({k: v for k, v in values.items() if k != "quantization_config"})


def rounded(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """The model with its weights rounded to a dtype, still computing in float32."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype).float())
    return model


def _part(kind: type, config: Any, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A transformers model with the tensors of its names among `state`."""
    config._attn_implementation = "eager"
    with no_init_weights():  # all of them are given
        model = kind(config).float().eval()
    missing = model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()}, strict=False)
    tied = {mapping.HEAD} if config.tie_word_embeddings or kind is _VL else set()
    if set(missing.missing_keys) - tied:
        raise ValueError(f"PyTorch's model lacks {sorted(missing.missing_keys)[:5]}")
    if tied:
        model.tie_weights()
    return model


_VL = transformers.Qwen3VLForConditionalGeneration


class Tempo:
    """Compressor, projector and LLM."""

    def __init__(self, folder: Path, base: Path):
        values, state = hf_config.read_json(folder), tensors(folder)
        svlm = f"{mapping.SVLM}vlm."
        parts = {name.removeprefix(svlm): x for name, x in state.items() if name.startswith(svlm)}
        config_values = {k: v for k, v in values.items() if k not in ("rope_scaling", "model_type")}
        self.svlm = _part(_VL, transformers.Qwen3VLConfig.from_dict(hf_config.read_json(base)), parts)
        self.llm = _part(
            transformers.Qwen3ForCausalLM,
            transformers.Qwen3Config.from_dict(copy.deepcopy(config_values)),
            state,
        )
        self.memory = state[f"{mapping.SVLM}compression_tokens"][0]
        names = sorted(n for n in state if n.startswith("model.mm_projector.") and n.endswith("weight"))
        self.projector = [(state[n], state[n.replace("weight", "bias")]) for n in names]

    def compress(self, ids: torch.Tensor, types: torch.Tensor, visual: dict) -> torch.Tensor:
        """Projected memory tokens [1, K, D] of a prompt [1, L] with its pictures."""
        count = len(self.memory)
        ids = torch.cat([ids, torch.zeros(1, count, dtype=ids.dtype)], 1)
        types = torch.cat([types, torch.zeros(1, count, dtype=types.dtype)], 1)
        grids = {name: grid for name, grid in visual.items() if name.endswith("grid_thw")}
        positions, _ = self.svlm.model.get_rope_index(ids, types, **grids)
        x = self.svlm.get_input_embeddings()(ids).clone()
        x[0, -count:] = self.memory
        x = self.svlm.model(inputs_embeds=x, position_ids=positions, **visual).last_hidden_state[:, -count:]
        for index, (weight, bias) in enumerate(self.projector):
            x = F.linear(F.gelu(x) if index else x, weight, bias)
        return x


class XComp:
    """Vision tower, projector and LLM; tokens are not merged, which takes no weights."""

    def __init__(self, folder: Path):
        values, self.state = hf_config.read_json(folder), tensors(folder)
        config_values = {k: v for k, v in values.items() if k != "model_type"}
        self.llm = _part(
            transformers.Qwen2ForCausalLM, transformers.Qwen2Config.from_dict(config_values), self.state
        )

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Projected features [1, T*N, D] of normalized pixels [T, 3, H, W]."""
        get = lambda name: self.state[mapping.UMT_PREFIX + name]  # noqa: E731
        kernel = get("patch_embed.proj.weight")
        x = F.conv2d(pixels, kernel[:, :, 0], get("patch_embed.proj.bias"), stride=kernel.shape[-1])
        side, width = x.shape[-1], x.shape[1]
        x = x.flatten(2).transpose(1, 2).reshape(1, -1, width)
        x = x + torch.from_numpy(umt.positions(len(pixels), side, width))
        depth = len(
            [n for n in self.state if n.startswith(mapping.UMT_PREFIX) and n.endswith("norm1.weight")]
        )
        for index in range(depth):
            x = self._block(x, lambda name, i=index: get(f"blocks.{i}.{name}"), width // hf_config.UMT_HEAD)
        x = F.layer_norm(
            x, (width,), get("vision_layernorm.weight"), get("vision_layernorm.bias"), umt.FINAL_EPS
        )
        for index in (0, 2):
            weight, bias = (self.state[f"{mapping.UMT_PROJECTOR}.{index}.{n}"] for n in ("weight", "bias"))
            x = F.linear(F.gelu(x) if index else x, weight, bias)
        return x

    @staticmethod
    def _block(x: torch.Tensor, get: Any, heads: int) -> torch.Tensor:
        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.layer_norm(x, x.shape[-1:], get(f"{name}.weight"), get(f"{name}.bias"), UMT_EPS)

        bias = torch.cat([get("attn.q_bias"), torch.zeros_like(get("attn.q_bias")), get("attn.v_bias")])
        q, k, v = F.linear(norm(x, "norm1"), get("attn.qkv.weight"), bias).chunk(3, -1)
        split = [y.reshape(*y.shape[:2], heads, -1).transpose(1, 2) for y in (q, k, v)]
        seen = F.scaled_dot_product_attention(*split).transpose(1, 2).reshape(x.shape)
        x = x + F.linear(seen, get("attn.proj.weight"), get("attn.proj.bias"))
        hidden = F.gelu(F.linear(norm(x, "norm2"), get("mlp.fc1.weight"), get("mlp.fc1.bias")))
        return x + F.linear(hidden, get("mlp.fc2.weight"), get("mlp.fc2.bias"))
