"""Questions about a spec, with right answers, plausible wrong ones and the moments that matter.

The first filter is that there is one right answer: what is asked about happens once (or is counted).
The second is that the question alone gives chance: wrong options are other things of the same video
first, then of the world, drawn so that nothing in their list marks the right one.

A question has several forms (FORMS), in which it is asked and answered.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from tempo_jax.data.minireel import generate, texts, world
from tempo_jax.data.minireel.world import Event, Spec
from tempo_jax.errors import TempoError

Span = tuple[float, float]
NEEDLES = 3  # at most, per video


@dataclasses.dataclass(frozen=True)
class Question:
    """One question, to be asked as multiple choice (`prompt`, `answer_letter`) or freely (`text`,
    `answer_text`).

    kind: one of texts.KINDS. asked: entry of texts.QUESTIONS. options: four, the right one under
    answer_letter; for "when" they are moments, the centres of standard segments.
    named: the event that the text names, as questions call events; "" where it names none.
    relevant_seconds: (start, end) spans that show what the answer rests on; the whole video for "global";
    for "order" all that appears, as only then it is clear what comes next.
    tolerance: seconds a freely given moment may lie outside the span; 0 where no time is asked.
    """

    kind: str
    asked: str
    text: str
    options: tuple[str, ...]
    answer_letter: str
    answer_text: str
    relevant_seconds: tuple[Span, ...]
    named: str = ""
    tolerance: float = 0.0

    @property
    def prompt(self) -> str:
        return texts.choice_prompt(self.text, self.options)

    @property
    def worded_answer(self) -> str:
        """'It is pink star': an answer to `prompt` in the very tokens of the option.

        After "It is" as after "(C)" words begin with a space; a small model copies tokens it has seen. No
        letter: which one stands before the words it did not learn to look up (docs/training.md §5).
        """
        return f"It is {self.options[texts.LETTERS.index(self.answer_letter)]}"

    def chosen(self, reply: str) -> bool:
        """Whether a reply to `prompt` picks the right option, by letter or by words."""
        return texts.option_of(reply, self.options) == self.answer_letter

    def accepts(self, reply: str) -> bool:
        """Whether a free reply is right: the same words but for case, article and final stop.

        A time is right when its first number lies in the event's span widened by `tolerance`.
        """
        if self.kind == "when":
            number = re.search(r"\d+(\.\d+)?", reply)
            (start, end), slack = self.relevant_seconds[0], self.tolerance
            return number is not None and start - slack <= float(number[0]) <= end + slack
        return _plain(reply) == _plain(self.answer_text)


def _plain(text: str) -> str:
    return re.sub(r"^(the|a|an) ", "", text.strip().rstrip(".!").lower().strip())


@dataclasses.dataclass(frozen=True)
class _Draft:
    """A question before its options: `near` are wrong options of this video, `far` of the world."""

    asked: str
    slots: dict[str, str]
    answer: str
    near: tuple[str, ...]
    far: tuple[str, ...]
    relevant: tuple[Span, ...]
    tolerance: float = 0.0


def _span(event: Event) -> Span:
    return event.start, event.end


def _others(names: Iterable[str], answer: str) -> tuple[str, ...]:
    """Each name once, without the answer, in order of first mention."""
    return tuple(name for name in dict.fromkeys(names) if name != answer)


class _Author:
    """Finds what can be asked about one video."""

    def __init__(self, spec: Spec, rng: np.random.Generator):
        self.spec, self.rng = spec, rng
        self.shown = [event for event in spec.events if event.kind != "turn"]
        times = Counter(event.name for event in self.shown)
        self.single = [event for event in self.shown if times[event.name] == 1]
        self.turns = [event for event in spec.events if event.kind == "turn"]
        self.visits = [event for event in self.shown if event.kind == "visit"]

    @property
    def asked_about(self) -> list[Event]:
        return [*self.single, *self.turns]

    def others(self) -> tuple[list[_Draft], ...]:
        """Of each kind but needles, all there are."""
        whens = [draft for event in self.asked_about for draft in self.whens(event)]
        return whens, self.orders(), self.counts(), self.globals()

    def needles(self, event: Event) -> list[_Draft]:
        """What one single event lets us ask for; the first draft is about the event's own look."""
        drafts = []
        if event.kind == "card":
            cards = [other.shape for other in self.shown if other.kind == "card"]
            drafts += self._needle("letter", event, event.shape, cards, world.LETTERS)
        if event.kind == "turn":
            seen = [other.colour for other in self.spec.events]
            drafts += self._needle("turn", event, event.colour, seen, world.COLOURS, self.spec.lead.colour)
            return drafts
        if event.kind == "visit":
            shapes = [visit.shape for visit in self.visits]
            drafts += self._needle("shape", event, event.shape, shapes, world.VISITORS)
        places = [scene.place for scene in self.spec.scenes]
        here = self.spec.scene_at(event.start).place
        return drafts + self._needle("place", event, here, places, world.PLACES)

    def _needle(
        self, asked: str, event: Event, answer: str, near: Iterable[str], far: Iterable[str], never: str = ""
    ) -> list[_Draft]:
        slots = {
            "colour": event.colour,
            "shape": event.shape,
            "name": event.called,
            "lead": self.spec.lead.name,
        }
        near, far = (tuple(n for n in _others(names, answer) if n != never) for names in (near, far))
        return [_Draft(asked, slots, answer, near, far, (_span(event),))]

    def whens(self, event: Event) -> list[_Draft]:
        """Centres of segments; wrong ones are other events' first."""
        length = self.spec.segment_seconds
        last = int(self.spec.seconds / length + 1e-6)  # whole segments
        if last < len(texts.LETTERS):
            return []
        label = [texts.moment((i + 0.5) * length) for i in range(last)]
        segment = int(event.start / length)
        near = [label[int(other.start / length)] for other in self.spec.events]
        asked = "when_turn" if event.kind == "turn" else "when"
        (draft,) = self._needle(asked, event, label[segment], near, label)
        return [dataclasses.replace(draft, tolerance=round(length, 3))]

    def orders(self) -> list[_Draft]:
        """Neighbours that each appear once; so do the wrong options."""
        drafts = []
        spans = tuple(map(_span, self.shown))
        names = [event.name for event in self.single]
        strange = self._strangers()
        for first, second in zip(self.shown, self.shown[1:]):
            if first.name not in names or second.name not in names:
                continue
            for asked, known, answer in (("after", first, second), ("before", second, first)):
                near = tuple(n for n in _others(names, answer.name) if n != known.name)
                drafts.append(_Draft(asked, {"name": known.called}, answer.name, near, strange, spans))
        return drafts

    def _strangers(self) -> tuple[str, ...]:
        """Things that might have appeared but did not, made as the generator makes them."""
        used = {value for event in self.shown for value in (event.shape,)}
        colours = list(world.COLOURS)
        names = [f"{self.rng.choice(colours)} {shape}" for shape in world.VISITORS if shape not in used]
        return (*names, *(f"letter {letter}" for letter in world.LETTERS if letter not in used))

    def counts(self) -> list[_Draft]:
        """The visit made for it: all counts are as likely."""
        name = self.spec.counted
        if name is None:
            return []
        spans = tuple(_span(event) for event in self.shown if event.name == name)
        numbers = tuple(str(n + 1) for n in range(generate.MOST_REPEATS))
        answer = str(len(spans))
        return [_Draft("count", {"name": name}, answer, _others(numbers, answer), (), spans)]

    def globals(self) -> list[_Draft]:
        whole = ((0.0, self.spec.seconds),)
        guests = tuple(guest.name for guest in self.spec.guests)
        places = _others((scene.place for scene in self.spec.scenes), self.spec.place)
        elsewhere = _others(world.PLACES, self.spec.place)
        return [
            _Draft("most_place", {}, self.spec.place, places, elsewhere, whole),
            _Draft("most_shape", {}, self.spec.lead.name, guests, (), whole),
        ]


def _finish(draft: _Draft, rng: np.random.Generator) -> Question:
    """Choose three wrong options, shuffle, phrase."""
    near = [str(name) for name in rng.permutation(draft.near)]
    far = [
        str(name) for name in rng.permutation(draft.far) if name not in draft.near and name != draft.answer
    ]
    wrong = (near + far)[: len(texts.LETTERS) - 1]
    options = [str(option) for option in rng.permutation([draft.answer, *wrong])]
    kind, phrasings = texts.QUESTIONS[draft.asked]
    return Question(
        kind=kind,
        asked=draft.asked,
        text=str(rng.choice(phrasings)).format(**draft.slots),
        options=tuple(options),
        answer_letter=texts.LETTERS[options.index(draft.answer)],
        answer_text=draft.answer,
        relevant_seconds=draft.relevant,
        named=draft.slots.get("name", ""),
        tolerance=draft.tolerance,
    )


def questions(spec: Spec) -> tuple[Question, ...]:
    """Up to three needles about different events, and one of each other kind that the video allows."""
    rng = generate.generator(spec.split, spec.index, 1)
    author = _Author(spec, rng)
    events = author.asked_about
    drafts = []
    for number in rng.permutation(len(events))[:NEEDLES]:
        possible = author.needles(events[number])
        # Mostly about the event itself, now and then about where it was.
        own = rng.random() < 0.75
        drafts.append(possible[int(rng.integers(max(1, len(possible) - 1)))] if own else possible[-1])
    drafts += [possible[int(rng.integers(len(possible)))] for possible in author.others() if possible]
    return tuple(_finish(draft, rng) for draft in drafts)


def draw_question(spec: Spec, rng: np.random.Generator, weights: Mapping[str, float] = {}) -> Question:
    """One of all that the video allows: what is asked about first, by `weights` (1 where none is given).

    weights: of entries of texts.QUESTIONS.
    """
    author = _Author(spec, rng)
    drafts = [draft for event in author.asked_about for draft in author.needles(event)]
    drafts += [draft for possible in author.others() for draft in possible]
    names = sorted({draft.asked for draft in drafts})
    shares = np.array([weights.get(name, 1.0) for name in names])
    asked = rng.choice(names, p=shares / shares.sum())
    drafts = [draft for draft in drafts if draft.asked == asked]
    return _finish(drafts[int(rng.integers(len(drafts)))], rng)


def also_told(spec: Spec, question: Question, rng: np.random.Generator) -> list[Question]:
    """Other questions that the notes taken for `question` (segments.evidence) answer as well, in any order.

    For a question of order the other neighbour of the event it names, and when that was.
    """
    author = _Author(spec, rng)
    drafts: list[_Draft] = []
    if question.kind == "order":
        drafts = author.orders()
        drafts += [d for event in author.single for d in author.whens(event)]
        drafts = [draft for draft in drafts if draft.slots["name"] == question.named]
    drafts = [d for d in drafts if (d.asked, d.slots["name"]) != (question.asked, question.named)]
    return [_finish(drafts[number], rng) for number in rng.permutation(len(drafts))]


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
