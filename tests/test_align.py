"""The alignment task: every memory token has a word to say, in the LLM's own embedding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tempo_jax.data.batch_packing import Shape
from tempo_jax.data.minireel.sources import EvidenceSource
from tempo_jax.models import build
from tempo_jax.prompts import IGNORE
from tempo_jax.tasks import TASKS
from tempo_jax.tasks.align import RELEVANCE_WEIGHT, SHARPNESS
from tests.small_demo import DEMO

pytestmark = pytest.mark.usefixtures("quick_compilation")

TASK = TASKS["align"]
SHAPE = Shape(pool=7, row_length=220, conversations=3, length=120)


@pytest.fixture(scope="module")
def samples():
    source = EvidenceSource("validation", 99, (64,), segments=2)
    return [source[index] for index in (3, 4, 5)]


@pytest.fixture(scope="module")
def batch(samples, tokenizer):
    return TASK.collate(samples, tokenizer, DEMO, SHAPE)


def test_every_memory_token_has_a_word_of_its_segments_note(samples, tokenizer, batch):
    notes = [note for sample in samples for note in notes_of(sample)]
    assert (batch.labels_PM[len(notes) :] == IGNORE).all() and (
        batch.relevant_P[len(notes) :] == IGNORE
    ).all()
    for note, words, relevant in zip(notes, batch.labels_PM, batch.relevant_P):
        assert tokenizer.decode(words.tolist()).startswith(note) and relevant == (note != " nothing")
        assert {*words.tolist()} == {*tokenizer.encode(note)}
    assert {*batch.relevant_P[: len(notes)].tolist()} == {0, 1}


def notes_of(sample):
    return [f" {part.split('> ')[1]}" for part in sample.conversation[1]["value"].split("<")[1:]]


def test_notes_and_segments_must_agree(samples, tokenizer):
    turns = [samples[0].conversation[0], {"from": "gpt", "value": "<2.0 seconds> red" * 9}]
    with pytest.raises(ValueError, match="9 notes for"):
        TASK.collate([dataclasses.replace(samples[0], conversation=turns)], tokenizer, DEMO, SHAPE)


def test_loss_is_the_formula_slot_by_slot(batch):
    model = build.init(DEMO, 2)
    found = jax.jit(TASK.loss)(model, jax.tree.map(jnp.asarray, batch))
    visual = model.compressor.encode_frames(batch.frames_PFHWC)
    memory, relevance = model.compressor(visual, batch.rows, batch.row_length_P)
    said = np.asarray(model.projector(memory), np.float64)
    table = np.asarray(model.llm.embed.embedding[...], np.float64)
    total = 0.0
    for segment, words in enumerate(batch.labels_PM):
        if batch.relevant_P[segment] == IGNORE:
            continue
        chance = float(relevance[segment])
        total -= RELEVANCE_WEIGHT * np.log(chance if batch.relevant_P[segment] else 1 - chance)
        for slot, word in enumerate(words):
            distance = ((said[segment, slot] - table) ** 2).sum(1) / (table**2).sum(1).mean()
            share = np.exp(-SHARPNESS * (distance - distance.min()))
            total += distance[word] - np.log(share[word] / share.sum())
    assert float(found.tokens) == (batch.labels_PM != IGNORE).sum()
    np.testing.assert_allclose(float(found.total), total, rtol=1e-4)


def test_the_llm_is_not_run_and_gets_no_gradient_but_at_its_embedding(batch):
    gradient = jax.grad(lambda model, batch: TASK.loss(model, batch).total, allow_int=True)
    grads = build.parameters(gradient(build.init(DEMO, 2), jax.tree.map(jnp.asarray, batch)))
    layers = jax.tree.leaves(grads["llm"]["layers"])
    assert layers and all(not np.asarray(x).any() for x in layers)
    for part in ("projector", "compressor"):
        assert any(np.asarray(x).any() for x in jax.tree.leaves(grads[part]))


def test_a_sample_needs_what_it_needs_of_tempo(samples, tokenizer):
    assert TASKS["align"].sample_size(samples[0], tokenizer, DEMO) == TASKS["tempo"].sample_size(
        samples[0], tokenizer, DEMO
    )


def test_what_a_batch_costs_and_holds(batch):
    """Of the LLM its embedding alone, and that costs what its products are; padding counts no frames."""
    stacked = jax.tree.map(lambda x: np.asarray(x)[None], batch)
    segments = int((batch.relevant_P != IGNORE).sum())
    assert TASK.counts(stacked, DEMO.memory_tokens) == (segments * DEMO.memory_tokens, segments * 8)
    parts = {part.group: part for part in TASK.flops(DEMO, stacked)}
    assert {*parts} == {"vision", "memory", "svlm", "projector", "llm"}
    products = batch.labels_PM.size * DEMO.llm.hidden_size * DEMO.llm.vocab_size
    assert parts["llm"] == ("llm", 2.0 * products, 0.0)
    assert TASK.step_flops(DEMO, stacked, {}) == sum(part.weights + part.scores for part in parts.values())
