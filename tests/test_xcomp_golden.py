"""A whole recorded run of the released system: 16 frames of pixels to greedy ids, through the engine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tempo_jax.models.config import XCOMP_TINY
from tempo_jax.trees import nest
from tempo_jax.xcomp import prompts, umt
from tempo_jax.xcomp.engine import XComp
from tests import xcomp_systems as tiny
from tests.systems import RecordedTokenizer
from tests.xcomp_systems import recorded

pytestmark = pytest.mark.usefixtures("quick_compilation")


class PromptTokenizer(RecordedTokenizer):
    """The real tokenizer's ids for one recorded prompt's own pieces."""

    def __init__(self, ids, message: str, question: str):
        super().__init__()
        place = ids.index(tiny.PLACEHOLDER)
        said = ids[place + 1 : -5]
        self._ids = {
            "system\nYou are a helpful assistant.": ids[1:9],
            "user\n": ids[12:14],
            "assistant\n": ids[-2:],
            f"\n{message}": said[:23],
            f"\n{message} {question}": said,
        }


def test_recorded_run():
    run = recorded("e2e_video16_LF8_suffix")
    frames = tiny.frames_u8(int(run["frame_seed"]), *run["frame_shape"][:3])
    assert int(frames.astype(int).sum()) == int(run["frames_sum"])
    question, message = str(run["question"]), prompts.time_message(float(run["duration"]), 16)
    tokenizer = PromptTokenizer(run["ids"].tolist(), message, question)
    params = nest({path: jnp.asarray(x) for path, x in tiny.parameters().items()})
    system = XComp(XCOMP_TINY, params, tokenizer)
    clip = system.open(frames, fps=3.0)
    assert clip.message == message
    pixels = np.asarray(umt.normalise(clip.frames._read(None)))
    np.testing.assert_allclose(pixels.sum((1, 2)), run["pixel_sum"], rtol=1e-4, atol=1.0)
    tokens = np.asarray(clip.frames.pool(0))[:256].reshape(2, 128, 64)
    np.testing.assert_allclose(tokens, run["tokens"], atol=1e-4)
    text = prompts.text(tokenizer, question, clip.message)
    assert [*text.prefix, tiny.PLACEHOLDER, *text.suffix] == run["ids"].tolist()
    answer = clip.ask(question, max_new_tokens=16)
    assert list(answer.token_ids) == run["gen_ids"].tolist()
    assert answer.usage["prompt_tokens"] == 48 + 256
    answer = clip.ask(question, max_new_tokens=16, repetition_penalty=1.1)
    assert list(answer.token_ids) == run["gen_ids_rep1p1"].tolist()
    assert jax.tree.leaves(clip.frames._pools)[0].shape == (256, 64)
