"""The texts of minireel as tables, and as a corpus to train a tokenizer."""

import re
from collections.abc import Iterator, Sequence
from itertools import product

from tempo_jax.data.minireel import world

KINDS = ("needle", "when", "order", "count", "global")
LETTERS = "ABCD"
CHOICE_SUFFIX = "Answer the question with the option letter"  # docs/reference/tempo.md#evaluation-protocol

# Template -> (kind, phrasings).
QUESTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "letter": (
        "needle",
        ("Which letter is on the {colour} card?", "What letter does the {colour} card show?"),
    ),
    "shape": (
        "needle",
        ("Which shape flashes up in {colour}?", "What is the {colour} shape that flashes up?"),
    ),
    "turn": (
        "needle",
        ("What colour does the {lead} turn for a moment?", "Which colour does the {lead} change to?"),
    ),
    "place": ("needle", ("Where does the {name} appear?", "In which place is the {name} seen?")),
    "when": ("when", ("When does the {name} appear?", "At what time is the {name} visible?")),
    "when_turn": ("when", ("When does the {lead} turn {colour}?", "At what time is the {lead} {colour}?")),
    "after": ("order", ("What appears right after the {name}?", "Which thing comes next after the {name}?")),
    "before": (
        "order",
        ("What appears right before the {name}?", "Which thing comes just before the {name}?"),
    ),
    "count": ("count", ("How many times does a {name} appear?", "How often is a {name} shown?")),
    "most_place": (
        "global",
        ("Where does most of the video take place?", "In which place does the video mainly play?"),
    ),
    "most_shape": (
        "global",
        ("Which shape is the video mostly about?", "Which moving shape is on screen most of the time?"),
    ),
}


def moment(seconds: float) -> str:
    """Formats a time as the time tags do, so that it can be copied from them."""
    return f"{seconds:.1f} seconds"


def choice_prompt(question: str, options: tuple[str, ...]) -> str:
    """Formats a multiple-choice question."""
    lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, options)]
    return "\n".join([question, *lines, CHOICE_SUFFIX])


def option_of(reply: str, options: Sequence[str] = ()) -> str | None:
    """Returns the letter of the option that a reply picks, None where it picks none.

    The first letter in brackets; else a letter that stands alone or as in "B. sea"; else the only one of
    `options` whose words the reply has; else the letter it begins with.
    """
    alone = rf"\s*([{LETTERS}])\s*(?:[.:)]|$)"
    if found := re.search(rf"\(([{LETTERS}])\)", reply) or re.match(alone, reply):
        return found[1]
    named = [
        letter
        for letter, option in zip(LETTERS, options)
        if re.search(rf"(?<!\w){re.escape(option)}(?!\w)", reply, re.IGNORECASE)
    ]
    if len(named) == 1:
        return named[0]
    found = re.match(rf"\s*([{LETTERS}])\b", reply)
    return found and found[1]


def _template_fields() -> dict[str, list[dict[str, str]]]:
    """Returns the possible fields of each template in QUESTIONS."""
    colours = [{"colour": colour} for colour in world.COLOURS]
    visits = [{"name": f"{colour} {shape}"} for colour, shape in product(world.COLOURS, world.VISITORS)]
    cards = [{"name": f"{colour} card"} for colour in world.COLOURS]
    leads = [f"{colour} {shape}" for colour, shape in product(world.COLOURS, world.ACTORS)]
    turns = [{"lead": lead, **colour} for lead, colour in product(leads, colours)]
    shown = visits + cards
    return {
        "letter": colours, "shape": colours, "turn": [{"lead": lead} for lead in leads],
        "place": shown, "when": shown, "when_turn": turns, "after": shown, "before": shown,
        "count": visits, "most_place": [{}], "most_shape": [{}],
    }  # fmt: skip


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
    for asked, slots in _template_fields().items():
        for slot, phrasing in product(slots, QUESTIONS[asked][1]):
            yield phrasing.format(**slot)
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
