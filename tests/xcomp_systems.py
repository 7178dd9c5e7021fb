"""The tiny XComp of the recorded runs: weights by their names and shapes, inputs by their seeds."""

import dataclasses
import functools
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np

from convert import mapping
from tempo_jax.models import build, stacks
from tempo_jax.models.config import UMTConfig, XCompConfig
from tempo_jax.models.presets import XCOMP_TINY
from tempo_jax.utils.tree import nest
from tempo_jax.xcomp.engine import XComp
from tests.systems import GOLDEN

FOLDER = GOLDEN / "xcomp_tiny"
PLACEHOLDER = -200  # where the visual tokens go in recorded prompts


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 values of a tensor by its published name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    x = np.random.RandomState(seed).standard_normal(size=tuple(shape)).astype(np.float32)
    if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
        return np.float32(1.0) + np.float32(0.1) * x
    if name.endswith("bias"):
        return np.float32(0.05) * x
    if name.endswith("embed_tokens.weight"):
        return np.float32(0.5) * x
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else int(shape[0])
    gain = 1.5 if name.endswith(("q_proj.weight", "k_proj.weight", "attn.qkv.weight")) else 1.0
    return (x * np.float32(gain / np.sqrt(fan_in))).astype(np.float32)


@functools.cache
def recorded(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


@functools.cache
def prompts() -> list[dict]:
    return json.loads((FOLDER / "prompts.json").read_text())


@functools.cache
def parameters() -> dict[str, np.ndarray]:
    """Native path -> float32 array, stacked."""
    flat = {}
    for entry in mapping.tensors("xcomp", XCOMP_TINY):
        parts = [mapping.to_native(entry.transform, tensor(name, entry.hf_shape)) for name in entry.hf]
        flat[entry.native] = np.stack(parts) if entry.stacked else parts[0]
    return flat


@functools.cache
def model(stacked: bool = False):
    params = nest({path: jnp.asarray(x) for path, x in parameters().items()})
    return build.build(XCOMP_TINY, params if stacked else stacks.unstack_layers(params))


def visual(seed: int, frames: int) -> np.ndarray:
    """Stands for the projected visual tokens: float32 [16 * frames, 64]."""
    return (0.5 * np.random.RandomState(seed).standard_normal((16 * frames, 64))).astype(np.float32)


def frames_u8(seed: int, count: int, height: int, width: int) -> np.ndarray:
    r = np.random.RandomState(seed)
    base = r.randint(0, 256, (1, height, width, 3))
    per = r.randint(0, 256, (count, height, width, 3))
    return ((base * 6 + per * 4) // 10).astype(np.uint8)


def pixels_f32(seed: int, count: int) -> np.ndarray:
    """Normalised pixels [count, 448, 448, 3] (recorded channels first)."""
    x = np.random.RandomState(seed).standard_normal((count, 3, 448, 448)).astype(np.float32)
    return x.transpose(0, 2, 3, 1)


# A smaller system for what does not need recorded numbers: 64-pixel frames, minireel's vocabulary.
MICRO = XCompConfig(
    vision=UMTConfig(hidden_size=64, intermediate_size=64, depth=1, num_heads=1, image_size=64, patch_size=8),
    llm=dataclasses.replace(
        XCOMP_TINY.llm, vocab_size=1024, hidden_size=32, intermediate_size=48, num_layers=3, head_dim=8
    ),
    score_layers=(1, 3),
    context_length=4096,
    eos_ids=(2,),
)


@functools.cache
def micro_parameters(clip_frames: int = 8) -> dict:
    return build.parameters(build.init(dataclasses.replace(MICRO, clip_frames=clip_frames), seed=3))


def micro(tokenizer, **changes) -> XComp:
    """An engine around random weights; changes: fields of the config."""
    params = jax.tree.map(jnp.copy, micro_parameters())
    return XComp(dataclasses.replace(MICRO, **changes), params, tokenizer, chunk_clips=2)


def moving(count: int, seed: int = 0) -> np.ndarray:
    """uint8 [count, 40, 48, 3], every frame another."""
    return np.random.RandomState(seed).randint(0, 256, (count, 40, 48, 3)).astype(np.uint8)
