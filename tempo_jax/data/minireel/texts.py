"""All text of minireel, as a corpus to train a tokenizer."""

import re
from collections.abc import Iterator
from itertools import product

from tempo_jax.data.minireel import world
from tempo_jax.data.minireel.questions import CHOICE_SUFFIX, HERE, LETTERS, NOTHING, TYPES, moment


def _answers() -> Iterator[str]:
    yield from world.COLOURS
    yield from world.VISITORS
    yield from world.PLACES
    yield from world.LETTERS
    yield from (f"letter {letter}" for letter in world.LETTERS)
    yield from (
        f"{colour} {shape}" for colour, shape in product(world.COLOURS, world.ACTORS + world.VISITORS)
    )
    yield from map(str, range(10))


def corpus(longest: int = 4101) -> Iterator[str]:
    """Yields all text of the world, with examples of times up to `longest` seconds; finite, in fixed order.

    Questions and answers come by themselves and as multiple choice; times as moments and as the time
    tags of the model's prompts, one for every 4 seconds of the shortest and every 32 of the longest.
    """
    for question_type in TYPES.values():
        for fields, phrasing in product(question_type.fields, question_type.phrasings):
            yield phrasing.format(**fields)
    answers = list(_answers())
    yield from answers
    yield from (f"({letter}) {answer}" for letter, answer in product(LETTERS, answers))
    yield from LETTERS
    yield CHOICE_SUFFIX
    for step, end in ((4, min(longest, 512)), (32, longest)):
        for start in range(0, end, step):
            yield moment(start + step / 2)
            yield f"(A) {moment(start + step / 2)}"
            yield f"<{moment(start + step / 2)}>"


def vocabulary() -> tuple[str, ...]:
    """Returns words, single digits and punctuation of the corpus, each once, sorted."""
    return tuple(sorted({piece for text in corpus() for piece in re.findall(r"[A-Za-z]+|\S", text)}))


def evidence_corpus() -> Iterator[str]:
    """Yields the texts of captions and evidence that `corpus` lacks."""
    yield from ("Yes", "No", NOTHING, HERE, "here and here")
    for colour in world.COLOURS:
        yield f"turns {colour}, {colour} letter"
    yield from (f"{place}, " for place in world.PLACES)
    yield from (f"{place} and {other}" for place in world.PLACES for other in world.COLOURS)
