"""Tiny systems for tests: weights by the recorded rule, held in memory, and recorded prompts."""

import dataclasses
import functools
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from convert import mapping
from examples.tiny_reference import tensor
from tempo_jax.models.config import QWEN_IDS
from tempo_jax.models.presets import TINY
from tempo_jax.prompts import Tokenizer
from tempo_jax.sharding import param_sharding
from tempo_jax.tempo.engine import Tempo
from tempo_jax.utils.tree import nest

GOLDEN = Path(__file__).parent / "golden"


class RecordedTokenizer(Tokenizer):
    """The real tokenizer's ids for the recorded prompts' own pieces, so that they need no tokenizer."""

    def __init__(self):
        self._ids = json.loads((GOLDEN / "token_ids.json").read_text(encoding="utf-8"))

    def encode(self, text):
        return self._ids[text]

    def decode(self, ids):
        return " ".join(map(str, ids))


@functools.cache
def weights(memory_tokens: int) -> dict[str, np.ndarray]:
    """Native path -> float32 array of the tiny reference system."""
    config = dataclasses.replace(TINY, memory_tokens=memory_tokens)
    flat = {}
    for entry in mapping.tensors("tempo", config):
        parts = [mapping.to_native(entry.transform, tensor(name, entry.hf_shape)) for name in entry.hf]
        flat[entry.native] = np.stack(parts) if entry.stacked else parts[0]
    embedding = tensor("base.model.language_model.embed_tokens.weight", (151_936, 64))
    flat["compressor/relevance/direction"] = embedding[QWEN_IDS.yes] - embedding[QWEN_IDS.no]
    return flat


def tiny_tempo(tokenizer, memory_tokens: int = 16, *, mesh=None, dtype=jnp.float32, **changes) -> Tempo:
    """An engine around the tiny weights; changes: fields of the config, or chunk_segments."""
    import jax

    chunk = {k: changes.pop(k) for k in ("chunk_segments",) if k in changes}
    config = dataclasses.replace(TINY, memory_tokens=memory_tokens, **changes)

    def place(path, x):
        x = x if path.endswith("direction") else x.astype(dtype)
        return jnp.asarray(x) if mesh is None else jax.device_put(x, param_sharding(path, x.shape, mesh))

    params = nest({path: place(path, x) for path, x in weights(memory_tokens).items()})
    return Tempo(config, params, tokenizer, mesh=mesh, **chunk)


def recorded_frames(seed: int, count: int, height: int, width: int) -> np.ndarray:
    """uint8 [count, height, width, 3]: the frames of the recorded runs (golden/README)."""
    base = np.random.RandomState(seed).randint(0, 255, (8, 8, 3)).astype(np.float32)
    rows = np.floor(np.linspace(0, 7, height)).astype(int)
    columns = np.floor(np.linspace(0, 7, width)).astype(int)
    moving = (np.roll(base, k // 2, axis=0) * (0.6 + 0.4 * np.sin(k / 3.0)) for k in range(count))
    return np.clip(np.stack([frame[rows][:, columns] for frame in moving]), 0, 255).astype(np.uint8)


def relative(ours, theirs) -> float:
    """Largest absolute difference over the largest recorded value."""
    theirs = np.asarray(theirs)
    assert np.shape(ours) == theirs.shape, (np.shape(ours), theirs.shape)
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max())
