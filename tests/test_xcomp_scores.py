"""Scores of clips: recorded ones of the released code, by hand (T10), and what they must not depend on."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tempo_jax.models.kernels.attention import attention
from tempo_jax.models.layers import get_layer
from tempo_jax.xcomp import token_compression
from tempo_jax.xcomp.frame_selection import (
    GLOBAL,
    LOCAL,
    Question,
    ScoringContext,
    ScoringWindows,
    clip_scores,
)
from tempo_jax.xcomp.token_compression import VARIANTS, make_schedule
from tests import xcomp_systems as tiny
from tests.test_xcomp_lp_comp import inputs
from tests.xcomp_systems import recorded

pytestmark = pytest.mark.usefixtures("quick_compilation")
PREFIX, TEXT = 14, 96

# Recorded cases of one chunk length: name -> (windows, skipped tokens, causal), and the layers to look at.
CASES = {
    32: (
        {
            "seg2_1_b27": (ScoringWindows(2, 1), 27, False),
            "seg2_1_b0": (ScoringWindows(2, 1), 0, False),
            "seg2_1_b27_causal": (ScoringWindows(2, 1), 27, True),
        },
        (0, 9, 16),
    ),
    64: (
        {
            "seg8_4_b27": (LOCAL, 27, False),
            "default_b27": (GLOBAL, 27, False),
            "default_b27_causal": (GLOBAL, 27, True),
        },
        (0, 9),
    ),
    104: ({"seg4_2_b27": (ScoringWindows(4, 2), 27, False)}, (9,)),
}


@functools.partial(jax.jit, static_argnames=("room", "cases", "layers"))
def score(llm, x, rows, end, *, room, cases, layers):
    made = make_schedule(VARIANTS["released"], 28, 16)
    found = {}

    def attend(q, k, v, scale):
        return attention(q, k, v, scale=scale, causal=True)

    for index, entering in token_compression.iterate_layers(llm, x, rows, room, made, attend):
        for name, (windows, skip, causal) in cases if index in layers else ():
            found[name, index] = clip_scores(
                get_layer(llm.layers, index), llm, entering[0], Question(jnp.int32(skip), end - 3, end),
                ScoringContext(PREFIX, room.frames, windows, causal), made.layer_tokens[index],
            )  # fmt: skip
        if index == layers[-1]:
            return found


def chunk(frames: int, ids: np.ndarray, seed: int):
    llm = tiny.model().llm
    x, rows, room = inputs(llm, ids, tiny.visual(seed, frames), TEXT - len(ids) + 1)
    return llm, x, rows, room, jnp.int32(len(ids) - 1 - PREFIX)


@pytest.mark.parametrize("frames", CASES)
def test_recorded_scores(frames):
    run = recorded("qcsmall")
    cases, layers = CASES[frames]
    llm, x, rows, room, end = chunk(frames, run["ids"], 9000 + frames)
    found = score(llm, x, rows, end, room=room, cases=tuple(cases.items()), layers=layers)
    for (name, index), ours in found.items():
        theirs = run[f"F{frames}_{name}"][index]
        valid = cases[name][0].valid(frames // 8)
        np.testing.assert_array_equal(theirs < 1000, valid)
        np.testing.assert_allclose(np.asarray(ours)[valid], theirs[valid], rtol=1e-4)


def test_a_question_of_no_rows_is_no_division_by_zero():
    """Where the released code has NaN: fewer tokens than it skips."""
    run = recorded("qcsmall")
    assert np.isnan(run["F32_seg2_1_shortq"][:, 1:3]).all()
    cases, layers = CASES[32]
    llm, x, rows, room, end = chunk(32, run["ids_short"], 9032)
    found = score(llm, x, rows, end, room=room, cases=tuple(cases.items()), layers=layers)
    assert all(np.isfinite(scores).all() for scores in found.values())
    assert np.asarray(found["seg2_1_b27", 0]).max() == 0 and np.asarray(found["seg2_1_b0", 0]).min() > 0


@pytest.mark.parametrize("causal,rows", [(True, (34, 35)), (False, (35, 35))])
def test_scores_by_hand(causal, rows):
    """T10 with eight tokens a clip: one prefix key of logit 0, clip A ln 3, clip B 0, two question keys 0.

    The first question row sees 1 + 8 * 3 + 8 + 1 = 34 parts when causal and 35 when not.
    """
    logits = np.array([0.0] + [np.log(3)] * 8 + [0.0] * 8 + [0.0, 0.0, 5.0], np.float32)
    x = jnp.stack([jnp.asarray(logits), jnp.zeros(20)], axis=1)
    heads = SimpleNamespace(
        head_dim=2, q_norm=None, k_norm=None, k=lambda x: x,
        q=lambda x: jnp.broadcast_to(jnp.array([2**0.5, 0.0]), x.shape),
    )  # fmt: skip
    block = SimpleNamespace(attention=heads, attention_norm=lambda x: x)
    still = SimpleNamespace(angles=lambda positions: jnp.zeros((*positions.shape, 1)))
    for start, end, expected in ((0, 1, 1 / rows[0]), (0, 2, (1 / rows[0] + 1 / rows[1]) / 2)):
        question = Question(jnp.int32(start), jnp.int32(end), jnp.int32(3))
        if not causal:
            question = question._replace(end=jnp.int32(2))
            expected = 1 / 35
        found = clip_scores(
            block,
            still,
            x,
            question,
            ScoringContext(1, 16, ScoringWindows(2, 1), causal),
            1,
        )
        np.testing.assert_allclose(found, [3 * expected, expected], rtol=1e-5)
