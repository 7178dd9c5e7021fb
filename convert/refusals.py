"""One-line errors for folders that are no supported Hugging Face checkpoint, with a remedy each."""

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from convert.safetensors_io import INDEX, SINGLE, some
from tempo_jax.errors import TempoError

# Tensor names of other programs -> what they are and what helps.
FOREIGN_NAMES = (
    (r"base_model\.model\.", "a PEFT adapter",
     "give the model it belongs to as --source and this as --adapter"),
    (r"(module\.)+(model|lm_head|language_model)\.", "saved through DistributedDataParallel (module.*)",
     "save the model inside it: model.module.save_pretrained"),
    (r"_orig_mod\.", "saved through torch.compile (_orig_mod.*)",
     "save the model inside it: model._orig_mod.save_pretrained"),
    (r"(module\.)?(language_model|decoder|model\.decoder)\.(encoder|layers\.\d+\.self_attention|embedding\.word)"
     r"|embedding\.word_embeddings|(module\.)?decoder\.layers\.", "a Megatron checkpoint",
     "export it to Hugging Face's names first (Megatron-Bridge, or Megatron's own converter)"),
    (r"transformer\.(h|layers|blocks)\.", "of another architecture (transformer.*)",
     "take a Qwen3 or Qwen3-VL"),
    (r"blk\.\d+\.|token_embd\.", "named as GGUF", "take the model's safetensors"),
    (r"layers\.\d+\.(attention\.w[qkvo]|feed_forward)\.", "a consolidated original",
     "take the Hugging Face files"),
)  # fmt: skip
QUANTIZED_NAMES = re.compile(
    r".*\.(qweight|qzeros|scales|g_idx|weight_scale(_inv)?|weight_packed|absmax|quant_map|SCB|"
    r"weight_zero_point|quant_state\..*)"
)
OTHER_FILES = (
    ("*.gguf", "GGUF weights only", "take the model's safetensors: GGUF is quantized and named otherwise"),
    ("*.bin", "pickled weights only, which can run code",
     "convert them to safetensors first (save_pretrained writes safetensors)"),
    ("*.pt", "pickled weights only, which can run code",
     "convert them to safetensors first (save_pretrained writes safetensors)"),
    ("*.pth", "pickled weights only, which can run code",
     "convert them to safetensors first (save_pretrained writes safetensors)"),
    ("*.distcp", "a distributed PyTorch checkpoint", "load it and save_pretrained it as safetensors"),
    ("*.msgpack", "Flax weights only", "take the model's safetensors"),
    ("*.h5", "TensorFlow weights only", "take the model's safetensors"),
    ("*.onnx", "an ONNX export only", "take the model's safetensors"),
)  # fmt: skip
METHODS = {"awq": "AWQ", "gptq": "GPTQ", "fp8": "FP8", "bitsandbytes": "bitsandbytes"}


def check_folder(folder: Path) -> None:
    """TempoError for a folder (or file) that holds something else than safetensors with a config.json."""
    if folder.is_file():
        raise TempoError(f"{folder} is a file: give the folder of a Hugging Face checkpoint")
    if not folder.is_dir():
        raise TempoError(
            f"{folder} does not exist: give the folder of a Hugging Face checkpoint, or a Hub id"
        )
    if (folder / "model.json").is_file() and (folder / "params").is_dir():
        raise TempoError(
            f"{folder} is a native checkpoint already: use it as it is, or export it with "
            f"python -m convert.to_hf --source={folder}"
        )
    if cached := _cached(folder):
        raise TempoError(
            f"{folder} is a Hugging Face cache (of {some(cached, 3)}): name the model, --source={cached[0]}"
        )
    has_weights = (folder / SINGLE).is_file() or (folder / INDEX).is_file()
    weights = [file for file in folder.glob("*.safetensors") if not file.name.startswith("adapter_")]
    if (folder / "adapter_config.json").is_file() and not has_weights and not weights:
        base = _base_of(folder)
        raise TempoError(
            f"{folder} is a PEFT adapter, no whole model: --source={base} --adapter={folder} merges it"
        )
    if not has_weights and not weights:
        for pattern, what, advice in OTHER_FILES:
            if any(folder.glob(pattern)):
                raise TempoError(f"{folder} holds {what}: {advice}")
    elif not (folder / "config.json").is_file():
        raise TempoError(f"{folder} holds no config.json: fetch that file of the model too")


def check_quantization(values: dict, names: Collection[str], where: Path) -> None:
    """TempoError for quantized weights that cannot be read; those of `fp8.block_size` can."""
    quantization = values.get("quantization_config") or values.get("compression_config")
    names_it = next((name for name in names if QUANTIZED_NAMES.fullmatch(name)), None)
    if quantization is None and names_it is None:
        return
    if isinstance(quantization, dict):
        method = str(quantization.get("quant_method", "unknown"))
        method_name = METHODS.get(method.lower(), method)
        method_name += f" ({quantization['fmt']})" if isinstance(quantization.get("fmt"), str) else ""
        description = f"quantized by {method_name}, its quantization_config says"
    else:
        description = f"quantized, as {names_it} shows" if names_it else "quantized (quantization_config)"
    raise TempoError(
        f"{where} is {description}: take the unquantized model (tempo quantizes at load, --dtype=int8 or "
        "fp8), or one in block-scaled FP8 as Qwen publishes it"
    )


def foreign(names: Iterable[str]) -> tuple[str, str] | None:
    """(program, remedy) if the tensors are named as another program names them."""
    names = list(names)
    for pattern, what, advice in FOREIGN_NAMES:
        if any(re.match(pattern, name) for name in names):
            return what, advice
    if any(".experts." in name for name in names):
        return "a model of mixed experts (MoE)", "take a dense one"
    return None


def _cached(folder: Path) -> list[str]:
    """Models of a Hub cache (or of one model's part of it), as Hub ids."""
    inside = [folder] if (folder / "snapshots").is_dir() else list(folder.glob("models--*"))
    inside += list((folder / "hub").glob("models--*"))
    return sorted(path.name.removeprefix("models--").replace("--", "/") for path in inside)


def _base_of(folder: Path) -> str:
    try:
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))[
            "base_model_name_or_path"
        ]
        return base if isinstance(base, str) and base else "MODEL"
    except (OSError, ValueError, KeyError, TypeError):
        return "MODEL"
