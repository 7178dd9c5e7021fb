"""tempo_jax.models.tempo.pack against a plain numpy assembly.

Sources: docs/reference/tempo.md#time-tags, docs/reference/tempo.md#llm-prompt-and-context.
"""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from tempo_jax import ata
from tempo_jax.models import tempo
from tempo_jax.models.config import PADDING_ID

SEGMENTS, TAG, ROWS = 5, 6, 4


def padded(ids, size):
    return np.array(list(ids) + [-1] * (size - len(ids)), np.int32)


def reference(allocation, tags, prefix, suffix, rows, bucket):
    """(token_ids, memory_index, length) by appending one by one."""
    text = [(t, -1) for t in prefix if t >= 0]
    for s, (k, tag) in enumerate(zip(allocation, tags, strict=True)):
        if k > 0:
            text += [(t, -1) for t in tag if t >= 0]
            text += [(PADDING_ID, s * rows + j) for j in range(min(k, rows))]
    text += [(t, -1) for t in suffix if t >= 0]
    cells = (text + [(PADDING_ID, -1)] * bucket)[:bucket]
    return [c[0] for c in cells], [c[1] for c in cells], len(text)


def check(allocation, tags, prefix, suffix, bucket, rows=ROWS):
    got = tempo.pack(np.array(allocation, np.int32), tags, prefix, suffix, memory_tokens=rows, bucket=bucket)
    ids, memory, length = reference(allocation, tags, prefix, suffix, rows, bucket)
    assert got.token_ids.dtype == got.memory_index.dtype == got.length.dtype == np.int32
    assert got.token_ids.tolist() == ids and got.memory_index.tolist() == memory
    assert int(got.length) == length
    return got


def ids(max_size):
    some = st.lists(st.integers(0, 151_935), max_size=max_size)
    return some.map(functools.partial(padded, size=max_size))


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    st.lists(st.integers(0, ROWS + 2), min_size=SEGMENTS, max_size=SEGMENTS),
    st.lists(ids(TAG), min_size=SEGMENTS, max_size=SEGMENTS).map(np.stack),
    ids(7),
    ids(5),
    st.sampled_from([1, 16, 64]),  # 64 holds everything, the others cut
)
def test_agrees_with_appending_one_by_one(allocation, tags, prefix, suffix, bucket):
    check(allocation, tags, prefix, suffix, bucket)


def test_small_example_by_hand():
    tags = np.stack([padded([10, 11], 3), padded([20], 3), padded([30, 31, 32], 3)])
    got = check([2, 0, 1], tags, padded([1, 2], 4), padded([3], 2), 12)
    assert got.token_ids.tolist() == [
        1,
        2,
        10,
        11,
        PADDING_ID,
        PADDING_ID,
        30,
        31,
        32,
        PADDING_ID,
        3,
        PADDING_ID,
    ]
    assert got.memory_index.tolist() == [-1, -1, -1, -1, 0, 1, -1, -1, -1, 8, -1, -1]
    assert int(got.length) == 11


def test_gaps_in_padded_prompts_close():
    check([1], np.full((1, 2), -1), np.array([-1, 5, -1, 6]), np.array([-1, 7]), 8)


def test_image_has_all_its_tokens_and_no_tag():
    got = check([ROWS], np.full((1, TAG), -1, np.int32), padded([1], 2), padded([2], 2), 8)
    assert got.memory_index.tolist() == [-1, 0, 1, 2, 3, -1, -1, -1]


@pytest.mark.parametrize("bucket", [9, 10, 11])
def test_length_tells_when_the_bucket_is_too_small(bucket):
    got = check([4, 4], np.array([[1], [2]], np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32), bucket)
    assert int(got.length) == 10


def test_visual_length_counts_kept_rows_and_their_tags():
    allocation, tag_lengths = np.array([4, 0, 128]), np.array([6, 6, 7])
    assert int(tempo.visual_length(allocation, tag_lengths)) == 4 + 6 + 128 + 7


def test_selects_the_kept_memory_in_order():
    rng = np.random.default_rng(0)
    memory = rng.standard_normal((SEGMENTS, ROWS, 3), np.float32)
    allocation = np.array([1, 0, 4, 2, 3])
    tokens, mask = ata.keep(memory, allocation, "tail")
    tags = rng.integers(0, 100, (SEGMENTS, TAG)).astype(np.int32)
    got = check(allocation, tags, padded([1, 2, 3], 7), padded([4], 5), 64)
    index = np.asarray(got.memory_index)
    rows = np.asarray(tokens).reshape(-1, 3)[index[index >= 0]]
    np.testing.assert_array_equal(rows, np.asarray(tokens)[np.asarray(mask)])


def test_compiles_once_per_bucket_and_is_the_same_without_jit():
    arrays = np.full((3, 2), 9, np.int32), padded([1], 3), padded([2], 3)
    before = tempo.pack._cache_size()
    for allocation in ([1, 2, 3], [0, 0, 0], [4, 4, 4]):
        allocation = np.array(allocation, np.int32)
        inside = tempo.pack(allocation, *arrays, memory_tokens=ROWS, bucket=20)
        with jax.disable_jit():
            outside = tempo.pack(allocation, *arrays, memory_tokens=ROWS, bucket=20)
        assert all(map(np.array_equal, inside, outside))
    assert tempo.pack._cache_size() == before + 1
