"""Safetensors straight onto a mesh: no native checkpoint between, no byte that is not needed."""

import jax
import numpy as np
import pytest

from convert import direct, from_hf, safetensors_io
from tempo_jax import checkpoint, sharding
from tests import tiny_checkpoints as tiny

CONFIG = tiny.tiny_config(16, tiny.SMALL)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 4, 2)])
def test_safetensors_straight_onto_a_mesh(published, shape):
    mesh = sharding.make_mesh(*shape)
    config, params = direct.load_hf("tempo", published / "tempo", mesh, base=published / "base")
    assert config == CONFIG
    expected = checkpoint.load_params(published / "native", shardings=mesh)

    def same(a, b):
        assert a.sharding == b.sharding and a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)

    jax.tree.map(same, params, expected)


def test_a_shard_reads_its_own_bytes(published, monkeypatch):
    """Slices of transposed, stacked tensors touch their own byte ranges only."""
    monkeypatch.setattr(safetensors_io, "MIN_RUN_BYTES", 1)
    with from_hf.Source("qwen3", published / "llm") as opened:
        parts = {part.tensor.native: part for part in opened.parts}
        for path in ("layers/mlp/up/kernel", "layers/mlp/down/kernel", "embed/embedding"):
            part, before = parts[path], opened.reader.bytes_read
            whole = part.read(part.dtype)
            size = opened.reader.bytes_read - before
            assert size == whole.nbytes
            for axis in range(whole.ndim):
                index = [slice(None)] * whole.ndim
                index[axis] = slice(0, whole.shape[axis] // 2)
                before = opened.reader.bytes_read
                got = part.read_slice(part.dtype, tuple(index))
                np.testing.assert_array_equal(got, whole[tuple(index)])
                assert opened.reader.bytes_read - before == got.nbytes
