"""The forms in which a question can be asked and answered, and how a source draws among them."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from tempo_jax.data.minireel.questions import Question
from tempo_jax.errors import TempoError

# Form of a question -> (what the human says, what is to be answered).
FORMS: dict[str, tuple[Callable[[Question], str], Callable[[Question], str]]] = {
    "choice": (lambda question: question.prompt, lambda question: question.answer_letter),
    "text": (lambda question: question.text, lambda question: question.answer_text),
    "worded": (lambda question: question.prompt, lambda question: question.worded_answer),
}


def check_forms(weights: Mapping[str, float]) -> None:
    """TempoError for a form there is not, or weights that cannot be drawn by."""
    check_names("form", weights, FORMS)
    if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise TempoError("minireel needs weights of its forms that are not below 0, nor all 0.")


def check_names(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """TempoError for the first name that is not known."""
    for unknown in (name for name in given if name not in known):
        raise TempoError(f"minireel has no {what} {unknown!r}: choose from {', '.join(known)}.")


def draw_form(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    """A name in FORMS."""
    names = sorted(weights)
    shares = np.array([weights[name] for name in names], float)
    return names[rng.choice(len(names), p=shares / shares.sum())]


def turns(question: Question, form: str) -> list[dict[str, str]]:
    """What the human and what the assistant says."""
    ask, answer = FORMS[form]
    return [{"from": "human", "value": ask(question)}, {"from": "gpt", "value": answer(question)}]
