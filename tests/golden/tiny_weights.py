"""Deterministic tiny weights: every tensor is a function of its name and shape alone."""

import hashlib

import numpy as np


def tensor(name, shape, scale=None):
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    r = np.random.RandomState(seed)
    x = r.standard_normal(size=tuple(shape)).astype(np.float32)
    if (
        name.endswith("norm.weight")
        or "norm1.weight" in name
        or "norm2.weight" in name
        or "layernorm.weight" in name
        or name.endswith(".norm.weight")
    ):
        return 1.0 + 0.1 * x
    if name.endswith("bias"):
        return 0.05 * x
    if "embed" in name or "compression_tokens" in name:
        return 0.5 * x
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
    gain = 3.0 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
    return x * (gain / np.sqrt(fan_in))
