"""Initial values of what Tempo adds to its two backbones (docs/reference/tempo.md#memory-tokens, stage 0)."""

import math
from collections.abc import Iterator

import numpy as np

from convert.source import Source, SourceTensor

_ROWS = 8192  # of the vocabulary at a time


def arrays(opened: Source, dtype: np.dtype | None, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Memory tokens and a linear projector, in the LLM's dtype unless another is given.

    Memory tokens [K,D]: Normal(mean_d, std_d) of the compressor's embedding columns. Projector: uniform
    within 1/sqrt(inputs), as torch.nn.Linear starts. Same distributions as PyTorch, other random numbers.
    """
    parts = {part.tensor.native: part for part in opened.parts}
    dtype = dtype or parts["llm/embed/embedding"].dtype
    rng = np.random.default_rng(seed)
    mean, std = _column_statistics(parts["compressor/text/embed/embedding"])
    memory = mean + std * rng.standard_normal((opened.config.memory_tokens, len(mean)))
    yield "compressor/memory/embedding", memory.astype(np.float32).astype(dtype)
    inputs, outputs = opened.config.compressor.text.hidden_size, opened.config.llm.hidden_size
    bound = 1 / math.sqrt(inputs)
    for name, shape in (("kernel", (inputs, outputs)), ("bias", (outputs,))):
        values = rng.uniform(-bound, bound, shape).astype(np.float32)
        yield f"projector/layers/0/{name}", values.astype(dtype)


def _column_statistics(part: SourceTensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased standard deviation over all rows, float64 [D]; blocks of rows at a time."""
    rows, width = part.tensor.shape
    total, squares = np.zeros(width), np.zeros(width)
    for i in range(0, rows, _ROWS):
        block = part.read_slice(np.dtype(np.float32), (slice(i, i + _ROWS), slice(None))).astype(np.float64)
        total += block.sum(0)
        squares += np.square(block).sum(0)
    mean = total / rows
    return mean, np.sqrt(np.maximum(squares - rows * mean**2, 0) / (rows - 1))
