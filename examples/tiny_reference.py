#!/usr/bin/env python
"""Write the tiny reference checkpoints in the published Hugging Face layout.

    python examples/tiny_reference.py build/tiny [--memory-tokens 16|128] [--shards N]

build/tiny/Tempo-6B/               config.json, safetensors, tokenizer: published tensor names, tiny shapes
build/tiny/Qwen3-VL-2B-Instruct/   the base model, where the conversion finds the Yes and No rows

The weights are random, each tensor a function of its name and shape alone: they answer nothing
sensibly, but the released PyTorch system was run on the very same values, so that every number on
the way from frames to logits can be compared (tests/golden). About 100 MB.
"""

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a clone, installed or not

from convert import hf_export, mapping
from tempo_jax.data import demo_tokenizer
from tempo_jax.models.config import TempoConfig
from tempo_jax.models.presets import TINY

TEMPO, BASE = "Tempo-6B", "Qwen3-VL-2B-Instruct"
NORMS = ("norm.weight", "norm1.weight", "norm2.weight", "layernorm.weight")
Shapes = Mapping[str, tuple[int, ...]]


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 values of a tensor: the rule that the golden outputs were made with."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    x = np.random.RandomState(seed).standard_normal(size=tuple(shape)).astype(np.float32)
    if name.endswith(NORMS):
        return 1.0 + 0.1 * x
    if name.endswith("bias"):
        return 0.05 * x
    if "embed" in name or "compression_tokens" in name:
        return 0.5 * x
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
    gain = 3.0 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
    return (x * (gain / np.sqrt(fan_in))).astype(np.float32)


def shapes(kind: str, config) -> dict[str, tuple[int, ...]]:
    """Hugging Face tensor name to shape, for a "tempo" or "qwen3-vl" config."""
    return {name: entry.hf_shape for entry in mapping.tensors(kind, config) for name in entry.hf}


def write_tensors(folder: Path, wanted: Shapes, prefix: str, shards: int) -> None:
    """One model.safetensors, or N shards with an index, as large checkpoints come."""
    names, where, size = sorted(wanted), {}, 0
    for i in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensor(prefix + name, wanted[name]) for name in names[i::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(part, file))
        size += sum(x.nbytes for x in part.values())
    if shards > 1:
        index = {"metadata": {"total_size": size}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write(
    out: str | Path, config: TempoConfig = TINY, *, shards: int = 1, fill: bool = True
) -> tuple[Path, Path]:
    """Write both checkpoints into `out`; returns the folders (Tempo, base model).

    fill: the tokenizer names every id (see demo_tokenizer.write), so that random answers show.
    """
    tempo, base = Path(out) / TEMPO, Path(out) / BASE
    svlm = config.compressor
    for folder, kind, part, prefix in ((tempo, "tempo", config, ""), (base, "qwen3-vl", svlm, "base.")):
        demo_tokenizer.write(folder, fill=fill)
        values = hf_export.export(kind, part, {}, "float32")
        (folder / "config.json").write_text(json.dumps(values, indent=1))
        write_tensors(folder, shapes(kind, part), prefix, shards)
    return tempo, base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder to write both checkpoints into")
    parser.add_argument("--memory-tokens", type=int, choices=(16, 128), default=16)
    parser.add_argument("--shards", type=int, default=1, help="safetensors files per checkpoint (1)")
    args = parser.parse_args()
    config = dataclasses.replace(TINY, memory_tokens=args.memory_tokens)
    for folder in write(args.out, config, shards=args.shards):
        print(folder)


if __name__ == "__main__":
    main()
