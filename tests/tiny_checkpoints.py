"""Tiny checkpoints in the published Hugging Face layout, with arrays one can tamper with.

    write_tempo(folder / "Tempo-6B");  write_base(folder / "Qwen3-VL-2B-Instruct")

Names, shapes and values are those of `examples/tiny_reference.py`; `vocab` shortens the embeddings for
tests that do not look at tokens.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from convert import hf_export
from examples.tiny_reference import shapes, tensor
from tempo_jax.models import config as cfg
from tempo_jax.models import presets

VOCAB = presets.TINY.llm.vocab_size
SMALL = 9472  # just holds the Yes row


def tiny_config(memory_tokens: int = 16, vocab: int = VOCAB) -> cfg.TempoConfig:
    svlm = presets.TINY.compressor
    return dataclasses.replace(
        presets.TINY,
        memory_tokens=memory_tokens,
        llm=dataclasses.replace(presets.TINY.llm, vocab_size=vocab),
        compressor=dataclasses.replace(svlm, text=dataclasses.replace(svlm.text, vocab_size=vocab)),
    )


def tensors(kind: str, config: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """HF name -> float32 values; `prefix` gives another model of the same names other values."""
    return {n: tensor(prefix + n, s).astype(np.float32) for n, s in shapes(kind, config).items()}


def write(
    folder: Path,
    arrays: Mapping[str, np.ndarray],
    config: dict,
    shards: int = 1,
    tokenizer_dir: Path | None = None,
) -> Path:
    """A checkpoint folder: config.json, one file or `shards` with an index, a tokenizer if given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    names = sorted(arrays)
    files = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    files = ["model.safetensors"] if shards == 1 else files
    for i, file in enumerate(files):
        part = {n: np.ascontiguousarray(arrays[n]) for n in names[i::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
    if shards > 1:
        where = {n: files[i] for i in range(shards) for n in names[i::shards]}
        index = {"metadata": {"total_size": sum(x.nbytes for x in arrays.values())}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if tokenizer_dir is not None:
        for file in Path(tokenizer_dir).iterdir():
            shutil.copyfile(file, folder / file.name)
    return folder


def hf_json(kind: str, config: Any) -> dict:
    return hf_export.export(kind, config, {}, "float32")


def write_tempo(
    out: Path, memory_tokens: int = 16, shards: int = 1, tokenizer_dir: Path | None = None, vocab: int = VOCAB
) -> Path:
    """The tiny Tempo in `out`."""
    config = tiny_config(memory_tokens, vocab)
    return write(out, tensors("tempo", config), hf_json("tempo", config), shards, tokenizer_dir)


def write_base(out: Path, shards: int = 1, vocab: int = VOCAB) -> Path:
    """The tiny Qwen3-VL base in `out`, without tokenizer."""
    config = tiny_config(16, vocab).compressor
    return write(out, tensors("qwen3-vl", config, "base."), hf_json("qwen3-vl", config), shards)


def write_llm(out: Path, shards: int = 1, vocab: int = VOCAB) -> Path:
    """The tiny Qwen3 global LLM in `out`, without tokenizer."""
    config = tiny_config(16, vocab).llm
    return write(out, tensors("qwen3", config), hf_json("qwen3", config), shards)
