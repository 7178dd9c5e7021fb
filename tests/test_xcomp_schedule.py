"""Schedules and survivors: the released tables, those by hand (T1-T5), and mistakes."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from tempo_jax.errors import TempoError
from tempo_jax.models.config import LPCompConfig
from tempo_jax.xcomp import token_compression
from tempo_jax.xcomp import token_compression as schedule
from tempo_jax.xcomp.token_compression import VARIANTS, make_schedule
from tests.xcomp_systems import recorded

RELEASED = [16] * 3 + [15] * 2 + [14] * 2 + [13] + [12] * 2 + [11, 10] + [9] * 2 + [8, 7, 6]
RELEASED += [5] * 2 + [4] + [3] * 2 + [2] * 2 + [1] * 4
PAPER = [16] * 4 + [15] * 2 + [14] * 2 + [13, 12, 11, 11, 10, 9, 8, 7, 7, 6, 5, 4, 4, 3, 3, 2, 2, 2, 2, 1]


def test_published_schedule():
    """T1."""
    released = make_schedule(VARIANTS["released"], 28, 16)
    assert list(released.layer_tokens) == RELEASED
    assert sum(RELEASED) == 231 and sum(k * k for k in RELEASED) == 2695
    drops = [layer for layer in range(28) if released.newly_kept(layer) is not None]
    assert drops == [3, 5, 7, 8, 10, 11, 12, 14, 15, 16, 17, 19, 20, 22, 24]
    np.testing.assert_array_equal(drops, recorded("schedule")["released_places"])
    assert list(make_schedule(VARIANTS["paper"], 28, 16).layer_tokens) == PAPER and sum(PAPER) == 244


@pytest.mark.parametrize("rounding", schedule.ROUNDINGS)
def test_recorded_schedules(rounding):
    """T1, T2: also of other depths and slots."""
    tables = recorded("schedule")
    found = [match for match in map(re.compile(rf"K_{rounding}_(\d+)x(\d+)").fullmatch, tables) if match]
    assert len(found) >= 10
    for match in found:
        assert schedule.cosine_counts(int(match[1]), int(match[2]), rounding) == tables[match[0]].tolist()


def test_recorded_uniform_survivors():
    tables = recorded("schedule")
    found = [match for match in map(re.compile(r"uniform_(\d+)x(\d+)").fullmatch, tables) if match]
    assert len(found) >= 10
    for match in found:
        ours = make_schedule(VARIANTS["uniform"], int(match[1]), int(match[2])).kept_indices
        theirs = [[place - 1 for place in row if place] for row in tables[match[0]].tolist()]
        assert [list(range(int(match[2]))), *map(list, ours)] == theirs


def test_survivors_by_hand():
    """T4."""
    uniform, suffix = (make_schedule(VARIANTS[name], 28, 16).kept_indices for name in ("uniform", "released"))
    by_count = {len(row): [token + 1 for token in row] for row in uniform}
    assert by_count[5] == [2, 5, 9, 12, 16] and by_count[4] == [5, 9, 12, 16]
    assert by_count[3] == [5, 12, 16] and by_count[2] == [5, 16] and by_count[1] == [16]
    assert next(row for row in suffix if len(row) == 5) == (11, 12, 13, 14, 15)
    steps = make_schedule(VARIANTS["steps"], 28, 16).kept_indices
    assert steps[9] == tuple(range(16)) and steps[10] == steps[19] == (3, 7, 11, 15) and steps[20] == (15,)


@pytest.mark.parametrize("name", VARIANTS)
def test_plans_hold_together(name):
    """Survivors are among the layer's before; runs cover all layers, with a drop before all but the first."""
    for layers, tokens in ((28, 16), (4, 16), (5, 4)):
        made = make_schedule(VARIANTS[name], layers, tokens)
        assert made.num_layers == layers
        before = tuple(range(tokens))
        for layer in range(layers):
            after = made.kept_indices[layer]
            assert made.tokens_before(layer) == len(before)
            assert set(after) <= set(before) and after[-1] == tokens - 1
            assert made.newly_kept(layer) is None or tuple(before[i] for i in made.newly_kept(layer)) == after
            before = after
        runs = made.constant_runs()
        assert [i for run in runs for i in range(*run)] == list(range(layers))
        assert all(made.newly_kept(start) is not None for start, _ in runs[1:])


_delete = jax.jit(token_compression.drop_tokens, static_argnums=(2, 3, 4))


def test_indices_by_hand():
    """T3: two text tokens, two frames of four tokens, three text tokens; a row of its own and padded."""
    made = make_schedule(LPCompConfig(), 4, 4)
    assert made.input_tokens == 4 and made.layer_tokens == (4, 3, 1, 1)
    rows = token_compression.RowLengths(np.array([2, 2]), np.array([2, 1]), np.array([3, 2]))
    room = token_compression.RowCapacity(5, 2)
    x = np.arange(13)[None].repeat(2, 0)
    seen = [x]
    for layer in range(4):
        kept = made.newly_kept(layer)
        before = made.tokens_before(layer)
        seen.append(seen[-1] if kept is None else np.asarray(_delete(seen[-1], rows, room, before, kept)))
    assert [row[0].tolist() for row in seen[1:]] == [
        list(range(13)),
        [0, 1, 3, 4, 5, 7, 8, 9, 10, 11, 12],
        [0, 1, 5, 9, 10, 11, 12],
        [0, 1, 5, 9, 10, 11, 12],
    ]
    assert [row[0].tolist().index(10) for row in seen[1:]] == [10, 8, 4, 4]
    assert seen[2][1, :7].tolist() == [0, 1, 3, 4, 5, 6, 7] and seen[3][1, :5].tolist() == [0, 1, 5, 6, 7]
    assert rows.per_layer(made).tolist() == [[13, 8], [11, 7], [7, 5], [7, 5]]
    labels = np.array([[-100] * 10 + [7, 8, 9]] * 2)
    assert token_compression.compress_labels(labels, rows, room, made)[0].tolist() == [-100] * 4 + [7, 8, 9]


def test_length_trace():
    """T5: 576 frames and 201 text tokens."""
    run = recorded("prefill_suffix_F576_S201")
    made = make_schedule(VARIANTS["released"], 28, 16)
    rows = token_compression.RowLengths(*(np.array([n]) for n in (14, 576, 187)))
    lengths = rows.per_layer(made)[:, 0]
    np.testing.assert_array_equal(lengths, run["lens"])
    assert lengths[0] == 9417 and lengths[-1] == 777
    for token, positions in enumerate(run["decode_pos"]):
        np.testing.assert_array_equal(lengths + token, positions)


@pytest.mark.parametrize("changes,sentence", [
    ({"schedule": "linear"}, "compression.schedule is 'linear': use one of cosine, steps, none."),
    ({"rounding": "floor"}, "compression.rounding is 'floor'"),
    ({"keep": "prefix"}, "compression.keep is 'prefix'"),
    ({"keep": "stride"}, "go together"),
    ({"schedule": "steps", "keep": "stride", "stride": 5}, "does not divide the 16 tokens"),
])  # fmt: skip
def test_mistakes(changes, sentence):
    with pytest.raises(TempoError, match=sentence):
        make_schedule(dataclasses.replace(LPCompConfig(), **changes), 28, 16)
