"""Recorded runs of the released code that take more to run than to compile: whole system, length, loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert import mapping
from tempo_jax.models import build
from tempo_jax.models.presets import XCOMP_TINY
from tempo_jax.models.umt import normalize
from tempo_jax.tasks import xcomp
from tempo_jax.utils.tree import nest
from tempo_jax.xcomp import layout, token_compression
from tempo_jax.xcomp.engine import XComp
from tempo_jax.xcomp.frame_selection import LOCAL, Question, ScoringContext, layer_scores
from tempo_jax.xcomp.token_compression import VARIANTS, make_schedule
from tests import xcomp_systems as tiny
from tests.systems import RecordedTokenizer
from tests.test_xcomp_lp_comp import inputs
from tests.tiny_training import unoptimised
from tests.xcomp_systems import recorded

PREFIX = 14  # text tokens before the video


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
    question, message = str(run["question"]), layout.time_message(float(run["duration"]), 16)
    tokenizer = PromptTokenizer(run["ids"].tolist(), message, question)
    params = nest({path: jnp.asarray(x) for path, x in tiny.parameters().items()})
    system = XComp(XCOMP_TINY, params, tokenizer)
    clip = system.open(frames, fps=3.0)
    assert clip.message == message
    pixels = np.asarray(normalize(clip.frames._decoded(None)))
    np.testing.assert_allclose(pixels.sum((1, 2)), run["pixel_sum"], rtol=1e-4, atol=1.0)
    tokens = np.asarray(clip.frames.visual_tokens(0))[:256].reshape(2, 128, 64)
    np.testing.assert_allclose(tokens, run["tokens"], atol=1e-4)
    text = layout.prompt_text(tokenizer, question, clip.message)
    assert [*text.prefix, tiny.PLACEHOLDER, *text.suffix] == run["ids"].tolist()
    with unoptimised():  # little to run, much to compile
        answer = clip.ask(question, max_new_tokens=16)
        penalised = clip.ask(question, max_new_tokens=16, repetition_penalty=1.1)
    assert list(answer.token_ids) == run["gen_ids"].tolist()
    assert list(penalised.token_ids) == run["gen_ids_rep1p1"].tolist()
    assert answer.usage["prompt_tokens"] == 48 + 256
    assert jax.tree.leaves(clip.frames._visual_tokens)[0].shape == (256, 64)


def test_recorded_long_prefill():
    """576 frames: 9417 positions in the first layers, 777 in the last."""
    run, model = recorded("prefill_suffix_F576_S201"), tiny.model(stacked=True)
    x, rows, room = inputs(model.llm, run["ids"], tiny.visual(int(run["vis_seed"]), 576))
    made = make_schedule(VARIANTS["released"], 28, 16)
    forward = jax.jit(token_compression.forward, static_argnums=(3, 4))
    hidden = forward(model.llm, x, rows, room, made)
    assert hidden.shape[1] == 777
    logits = model.llm.logits(hidden[0, -1])
    np.testing.assert_allclose(logits[:4096], run["last_logits"], atol=1e-3)
    np.testing.assert_array_equal(np.argsort(-logits)[:5], run["last_top5_ids"])


def test_recorded_chunk_of_576_frames():
    """The first two layers of a whole chunk; those after them are not computed."""
    run = recorded("qcchunk_released_seg")
    model = tiny.model()
    x, rows, room = inputs(model.llm, run["ids"], tiny.visual(int(run["vis_seed"]), 576))
    question = Question(jnp.int32(27), jnp.int32(run["S"] - PREFIX - 3), jnp.int32(run["S"] - PREFIX))
    found = jax.jit(
        lambda llm, x, rows, question: layer_scores(
            llm, x, rows, make_schedule(VARIANTS["released"], 28, 16), question,
            ScoringContext(PREFIX, room.frames, LOCAL, causal=False), text_capacity=room.text,
            layers=range(2),
        )
    )(model.llm, x, rows, question)  # fmt: skip
    valid = LOCAL.valid(72)
    np.testing.assert_allclose(np.asarray(found)[:, valid], run["clip_scores"][:2, valid], rtol=1e-4)


def recorded_batch(run):
    (place,) = np.flatnonzero(run["ids"] == tiny.PLACEHOLDER)
    frames, text = int(run["F"]), np.delete(run["ids"], place)
    lengths = (np.array([n]) for n in (place, frames, len(text) - place))
    return xcomp.Batch(
        np.zeros((1, 8, 1, 1, 3), np.uint8), np.zeros((1, 1, 1, 3), np.uint8),
        np.arange(16 * frames)[None], text[None],
        np.delete(run["labels"], place)[None], *lengths,
    )  # fmt: skip


def test_recorded_loss_and_gradients():
    """Every tensor's gradient norm, some gradients whole, and the visual tokens'."""
    run = recorded("loss_suffix_F8")
    batch = jax.tree.map(jnp.asarray, recorded_batch(run))
    params = {path: jnp.asarray(x) for path, x in tiny.parameters().items()}
    llm = {path: x for path, x in params.items() if path.startswith("llm/")}

    def mean(llm, visual):
        model = build.build(XCOMP_TINY, nest(params | llm))
        nobodys = jnp.zeros((1, XCOMP_TINY.frame_tokens, visual.shape[-1]))
        found = xcomp.loss_of_visual(model, visual, nobodys, batch, remat=False)
        return found.total / found.tokens

    visual = jnp.asarray(tiny.visual(int(run["vis_seed"]), int(run["F"])))
    with unoptimised():
        value, (grads, on_visual) = jax.jit(jax.value_and_grad(mean, argnums=(0, 1)))(llm, visual)
    assert abs(value - run["loss"]) < 1e-4
    np.testing.assert_allclose(on_visual, run["vis_grad"], atol=1e-4)
    ours = {}
    for entry in mapping.tensors("xcomp", XCOMP_TINY):
        for i, name in enumerate(entry.hf if entry.native in grads else ()):
            grad = np.asarray(grads[entry.native][i] if entry.stacked else grads[entry.native])
            ours[name] = mapping.to_hf(entry.transform, grad, entry.hf_shape)
    norms = dict(zip(run["grad_norm_names"].tolist(), run["grad_norms"], strict=True))
    assert ours.keys() == norms.keys()
    for name, norm in norms.items():
        assert np.linalg.norm(ours[name]) == pytest.approx(norm, rel=1e-3, abs=1e-4), name
    for name in (n.removeprefix("grad__") for n in run if n.startswith("grad__")):
        np.testing.assert_allclose(ours[name], run[f"grad__{name}"], atol=1e-3)
