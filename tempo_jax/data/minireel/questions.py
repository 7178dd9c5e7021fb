"""Questions about a spec, with correct answers, plausible distractors and the times of the evidence.

There is exactly one correct answer: what a question is about happens once (or is counted). The question alone
gives chance accuracy: distractors are other things of the same video first, then of the world, drawn so that
nothing in the list of options marks the correct one.

FORMS are the answer formats: multiple choice, option text and free form.
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
NEEDLES = 3  # most of a video


@dataclasses.dataclass(frozen=True)
class Question:
    """One question, as multiple choice (`prompt`, `answer_letter`) or free form (`text`, `answer_text`).

    Attributes:
      kind: One of texts.KINDS. template: Entry of texts.QUESTIONS. text: The question in words. options: Four
      options; for "when" they are times, the centers of standard segments. answer_letter: Letter of the
      correct option. answer_text: Text of the correct option. relevant_seconds: (start, end) spans with the
      evidence; the whole video for "global", and for "order" all
        events, since only they show what comes next.
      named: The event that the text names, as `Event.called`; "" where it names none.
      tolerance: Seconds by which a free-form time may lie outside the span; 0 where no time is asked.
    """

    kind: str
    template: str
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
        """The answer in option text, 'It is pink star', with the same tokens as the option.

        After "It is" as after "(C)" words begin with a space, since a small model copies tokens. There is no
        letter: the demo model did not learn to look up the letter of an option (docs/results/demo-model.md).
        """
        return f"It is {self.options[texts.LETTERS.index(self.answer_letter)]}"

    def chosen(self, reply: str) -> bool:
        """Returns whether a reply to `prompt` picks the correct option, by letter or by text."""
        return texts.option_of(reply, self.options) == self.answer_letter

    def accepts(self, reply: str) -> bool:
        """Returns whether a free-form reply is correct: the same words except case, article and final stop.

        A time is correct if its first number lies in the event's span, widened by `tolerance`.
        """
        if self.kind == "when":
            number = re.search(r"\d+(\.\d+)?", reply)
            (start, end), slack = self.relevant_seconds[0], self.tolerance
            return number is not None and start - slack <= float(number[0]) <= end + slack
        return _plain(reply) == _plain(self.answer_text)


def _plain(text: str) -> str:
    return re.sub(r"^(the|a|an) ", "", text.strip().rstrip(".!").lower().strip())


@dataclasses.dataclass(frozen=True)
class _QuestionDraft:
    """A question without options: `near` are distractors of this video, `far` of the world."""

    template: str
    slots: dict[str, str]
    answer: str
    near: tuple[str, ...]
    far: tuple[str, ...]
    relevant: tuple[Span, ...]
    tolerance: float = 0.0


def _span(event: Event) -> Span:
    return event.start, event.end


def _others(names: Iterable[str], answer: str) -> tuple[str, ...]:
    """Returns each name once, without the answer, in order of first mention."""
    return tuple(name for name in dict.fromkeys(names) if name != answer)


class _QuestionGenerator:
    """Generates the questions that one video allows."""

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

    def others(self) -> tuple[list[_QuestionDraft], ...]:
        """Returns all questions of each kind except needles."""
        whens = [draft for event in self.asked_about for draft in self.whens(event)]
        return whens, self.orders(), self.counts(), self.globals()

    def needles(self, event: Event) -> list[_QuestionDraft]:
        """Returns the questions about one event; the first one is about its appearance."""
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
        self,
        template: str,
        event: Event,
        answer: str,
        near: Iterable[str],
        far: Iterable[str],
        never: str = "",
    ) -> list[_QuestionDraft]:
        slots = {
            "colour": event.colour,
            "shape": event.shape,
            "name": event.called,
            "lead": self.spec.lead.name,
        }
        near, far = (tuple(n for n in _others(names, answer) if n != never) for names in (near, far))
        return [_QuestionDraft(template, slots, answer, near, far, (_span(event),))]

    def whens(self, event: Event) -> list[_QuestionDraft]:
        """Returns questions about the time of an event; distractors are times of other events first."""
        length = self.spec.segment_seconds
        last = int(self.spec.seconds / length + 1e-6)  # whole segments
        if last < len(texts.LETTERS):
            return []
        label = [texts.moment((i + 0.5) * length) for i in range(last)]
        segment = int(event.start / length)
        near = [label[int(other.start / length)] for other in self.spec.events]
        template = "when_turn" if event.kind == "turn" else "when"
        (draft,) = self._needle(template, event, label[segment], near, label)
        return [dataclasses.replace(draft, tolerance=round(length, 3))]

    def orders(self) -> list[_QuestionDraft]:
        """Returns questions about neighboring events that appear once, as their distractors do."""
        drafts = []
        spans = tuple(map(_span, self.shown))
        names = [event.name for event in self.single]
        strange = self._strangers()
        for first, second in zip(self.shown, self.shown[1:]):
            if first.name not in names or second.name not in names:
                continue
            for template, known, answer in (("after", first, second), ("before", second, first)):
                near = tuple(n for n in _others(names, answer.name) if n != known.name)
                drafts.append(
                    _QuestionDraft(template, {"name": known.called}, answer.name, near, strange, spans)
                )
        return drafts

    def _strangers(self) -> tuple[str, ...]:
        """Returns names of events that do not appear, drawn as the generator draws them."""
        used = {value for event in self.shown for value in (event.shape,)}
        colours = list(world.COLOURS)
        names = [f"{self.rng.choice(colours)} {shape}" for shape in world.VISITORS if shape not in used]
        return (*names, *(f"letter {letter}" for letter in world.LETTERS if letter not in used))

    def counts(self) -> list[_QuestionDraft]:
        """Returns the question about the repeated visit; all counts are equally likely."""
        name = self.spec.counted
        if name is None:
            return []
        spans = tuple(_span(event) for event in self.shown if event.name == name)
        numbers = tuple(str(n + 1) for n in range(generate.MAX_REPEATS))
        answer = str(len(spans))
        return [_QuestionDraft("count", {"name": name}, answer, _others(numbers, answer), (), spans)]

    def globals(self) -> list[_QuestionDraft]:
        whole = ((0.0, self.spec.seconds),)
        guests = tuple(guest.name for guest in self.spec.guests)
        places = _others((scene.place for scene in self.spec.scenes), self.spec.place)
        elsewhere = _others(world.PLACES, self.spec.place)
        return [
            _QuestionDraft("most_place", {}, self.spec.place, places, elsewhere, whole),
            _QuestionDraft("most_shape", {}, self.spec.lead.name, guests, (), whole),
        ]


def _finish(draft: _QuestionDraft, rng: np.random.Generator) -> Question:
    """Draws three distractors, shuffles the options and phrases the question."""
    near = [str(name) for name in rng.permutation(draft.near)]
    far = [
        str(name) for name in rng.permutation(draft.far) if name not in draft.near and name != draft.answer
    ]
    wrong = (near + far)[: len(texts.LETTERS) - 1]
    options = [str(option) for option in rng.permutation([draft.answer, *wrong])]
    kind, phrasings = texts.QUESTIONS[draft.template]
    return Question(
        kind=kind,
        template=draft.template,
        text=str(rng.choice(phrasings)).format(**draft.slots),
        options=tuple(options),
        answer_letter=texts.LETTERS[options.index(draft.answer)],
        answer_text=draft.answer,
        relevant_seconds=draft.relevant,
        named=draft.slots.get("name", ""),
        tolerance=draft.tolerance,
    )


def questions(spec: Spec) -> tuple[Question, ...]:
    """Returns up to three needles about different events, and one question of each other possible kind."""
    rng = generate.generator(spec.split, spec.index, 1)
    author = _QuestionGenerator(spec, rng)
    events = author.asked_about
    drafts = []
    for number in rng.permutation(len(events))[:NEEDLES]:
        possible = author.needles(events[number])
        # Mostly about the event itself, sometimes about its place.
        about_event = rng.random() < 0.75
        drafts.append(possible[int(rng.integers(max(1, len(possible) - 1)))] if about_event else possible[-1])
    drafts += [possible[int(rng.integers(len(possible)))] for possible in author.others() if possible]
    return tuple(_finish(draft, rng) for draft in drafts)


def draw_question(spec: Spec, rng: np.random.Generator, weights: Mapping[str, float] = {}) -> Question:
    """Draws one of all questions that the video allows.

    Args:
      spec: The video.
      rng: The random generator.
      weights: Weights of entries of texts.QUESTIONS, by which one is drawn first; 1 by default.
    """
    author = _QuestionGenerator(spec, rng)
    drafts = [draft for event in author.asked_about for draft in author.needles(event)]
    drafts += [draft for possible in author.others() for draft in possible]
    names = sorted({draft.template for draft in drafts})
    shares = np.array([weights.get(name, 1.0) for name in names])
    template = rng.choice(names, p=shares / shares.sum())
    drafts = [draft for draft in drafts if draft.template == template]
    return _finish(drafts[int(rng.integers(len(drafts)))], rng)


def co_answerable(spec: Spec, question: Question, rng: np.random.Generator) -> list[Question]:
    """Returns other questions that the evidence of `question` (segments.evidence) answers, in random order.

    For a question of kind "order" these are about the other neighbor of the named event, and about its time.
    """
    author = _QuestionGenerator(spec, rng)
    drafts: list[_QuestionDraft] = []
    if question.kind == "order":
        drafts = author.orders()
        drafts += [d for event in author.single for d in author.whens(event)]
        drafts = [draft for draft in drafts if draft.slots["name"] == question.named]
    drafts = [d for d in drafts if (d.template, d.slots["name"]) != (question.template, question.named)]
    return [_finish(drafts[number], rng) for number in rng.permutation(len(drafts))]


# Answer format -> (question of the human, answer).
FORMS: dict[str, tuple[Callable[[Question], str], Callable[[Question], str]]] = {
    "choice": (lambda question: question.prompt, lambda question: question.answer_letter),
    "text": (lambda question: question.text, lambda question: question.answer_text),
    "worded": (lambda question: question.prompt, lambda question: question.worded_answer),
}


def check_forms(weights: Mapping[str, float]) -> None:
    """Raises TempoError for an unknown format, or weights that cannot be drawn from."""
    check_names("form", weights, FORMS)
    if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise TempoError("minireel needs weights of its forms that are not below 0, nor all 0.")


def check_names(category: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises TempoError for the first unknown name."""
    for unknown in (name for name in names if name not in known):
        raise TempoError(f"minireel has no {category} {unknown!r}: choose from {', '.join(known)}.")


def draw_form(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    """Draws a name in FORMS."""
    names = sorted(weights)
    shares = np.array([weights[name] for name in names], float)
    return names[rng.choice(len(names), p=shares / shares.sum())]


def turns(question: Question, form: str) -> list[dict[str, str]]:
    """Returns the turns of the human and of the assistant."""
    ask, answer = FORMS[form]
    return [{"from": "human", "value": ask(question)}, {"from": "gpt", "value": answer(question)}]
