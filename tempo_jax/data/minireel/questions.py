"""The types of questions: one class each, with its phrasings, its answer and distractors, and its evidence.

TYPES is the table of all. A type says which questions of it a video allows (`draft`), what a segment shows
for the answer (`evidence`), and which segments could be mistaken for those that do (`is_distractor`). There
is exactly one correct answer: what a question is about happens once (or is counted). The question alone gives
chance accuracy: distractors are other things of the same video first, then of the world, drawn so that
nothing in the list of options marks the correct one.
"""

import abc
import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, ClassVar

import numpy as np

from tempo_jax.data.minireel import generate, world
from tempo_jax.data.minireel.world import Event, Segment, Spec

Span = tuple[float, float]

LETTERS = "ABCD"
CHOICE_SUFFIX = "Answer the question with the option letter"  # docs/reference/tempo.md#evaluation-protocol
NOTHING = "nothing"
HERE = "here"
# Kind -> most questions of the kind about one video.
MOST_PER_VIDEO = {"needle": 3, "when": 1, "order": 1, "count": 1, "global": 1}
KINDS = tuple(MOST_PER_VIDEO)

# All values of the fields of phrasings.
_COLOURS = [{"colour": colour} for colour in world.COLOURS]
_VISITS = [{"name": f"{colour} {shape}"} for colour, shape in product(world.COLOURS, world.VISITORS)]
_SHOWN = _VISITS + [{"name": f"{colour} card"} for colour in world.COLOURS]
_LEADS = [f"{colour} {shape}" for colour, shape in product(world.COLOURS, world.ACTORS)]


@dataclasses.dataclass(frozen=True)
class Question:
    """One question, as multiple choice (`prompt`, `answer_letter`) or free form (`text`, `answer_text`).

    Attributes:
      kind: One of KINDS.
      template: Entry of TYPES.
      text: The question in words.
      options: Four options; for "when" they are times, the centers of standard segments.
      answer_letter: Letter of the correct option.
      answer_text: Text of the correct option.
      relevant_seconds: (start, end) spans with the evidence; the whole video for "global", and for "order"
        all events, since only they show what comes next.
      named: The event that the question is about, as `Event.called`; "" where it is about none.
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
    def type(self) -> "QuestionType":
        return TYPES[self.template]

    @property
    def prompt(self) -> str:
        return choice_prompt(self.text, self.options)

    @property
    def worded_answer(self) -> str:
        """The answer in option text, 'It is pink star', with the same tokens as the option.

        After "It is" as after "(C)" words begin with a space, since a small model copies tokens. There is no
        letter: the demo model did not learn to look up the letter of an option (docs/results/demo-model.md).
        """
        return f"It is {self.options[LETTERS.index(self.answer_letter)]}"

    def chosen(self, reply: str) -> bool:
        """Returns whether a reply to `prompt` picks the correct option, by letter or by text."""
        return option_of(reply, self.options) == self.answer_letter

    def accepts(self, reply: str) -> bool:
        """Returns whether a free-form reply is correct."""
        return self.type.accepts(self, reply)

    def is_relevant(self, segment: Segment) -> bool:
        """Returns whether any frame of the segment shows the evidence."""
        return segment.shows(self.relevant_seconds)

    def evidence(self, segment: Segment) -> str:
        """Returns the evidence of a segment for the answer: 'pink star', 'sea', 'here star', 'nothing'."""
        return self.type.evidence(self, segment)

    def has_evidence(self, segment: Segment) -> bool:
        """Returns whether the evidence text of the segment is not NOTHING."""
        return self.evidence(segment) != NOTHING

    def is_distractor(self, segment: Segment) -> bool:
        """Returns whether the segment shows something that could be mistaken for what this is about."""
        return self.type.is_distractor(self, segment)

    def has_named_colour(self, segment: Segment) -> bool:
        """Returns whether the segment has an event of the colour that the question names."""
        return segment.event is not None and segment.event.colour == self.named.split(" ")[0]


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


@dataclasses.dataclass(frozen=True)
class Draft:
    """A question without options.

    Attributes:
      type: Its type.
      fields: Values of the fields of its phrasings, and `name`, what it is about.
      answer: The correct option.
      near: Distractors of this video.
      far: Distractors of the world, which are used where the video has too few.
      relevant: As Question.relevant_seconds.
      tolerance: As Question.tolerance.
    """

    type: "QuestionType"
    fields: dict[str, str]
    answer: str
    near: tuple[str, ...]
    far: tuple[str, ...]
    relevant: tuple[Span, ...]
    tolerance: float = 0.0

    def finish(self, rng: np.random.Generator) -> Question:
        """Draws three distractors, shuffles the options and phrases the question."""
        near = [str(name) for name in rng.permutation(self.near)]
        far = [
            str(name) for name in rng.permutation(self.far) if name not in self.near and name != self.answer
        ]
        wrong = (near + far)[: len(LETTERS) - 1]
        options = [str(option) for option in rng.permutation([self.answer, *wrong])]
        return Question(
            kind=self.type.kind,
            template=self.type.name,
            text=str(rng.choice(self.type.phrasings)).format(**self.fields),
            options=tuple(options),
            answer_letter=LETTERS[options.index(self.answer)],
            answer_text=self.answer,
            relevant_seconds=self.relevant,
            named=self.fields.get("name", ""),
            tolerance=self.tolerance,
        )


class Video:
    """What questions about a video can be about.

    Attributes:
      spec: The video.
      rng: Draws what `strangers` needs.
      shown: Events that appear: visits and cards.
      single: Those of them whose name no other has.
      events: Events that a question may be about, the lead's turns included.
    """

    def __init__(self, spec: Spec, rng: np.random.Generator):
        self.spec, self.rng = spec, rng
        self.shown = [event for event in spec.events if event.kind != "turn"]
        times = Counter(event.name for event in self.shown)
        self.single = [event for event in self.shown if times[event.name] == 1]
        self.events = [*self.single, *(event for event in spec.events if event.kind == "turn")]

    def shapes(self, kind: str) -> list[str]:
        """Returns shapes or letters of the events of a kind that appear."""
        return [event.shape for event in self.shown if event.kind == kind]

    def strangers(self) -> tuple[str, ...]:
        """Returns names of events that do not appear, drawn as the generator draws them."""
        used = {event.shape for event in self.shown}
        colours = list(world.COLOURS)
        names = [f"{self.rng.choice(colours)} {shape}" for shape in world.VISITORS if shape not in used]
        return (*names, *(f"letter {letter}" for letter in world.LETTERS if letter not in used))

    def drafts(self, kind: str) -> list[Draft]:
        """Returns all questions of a kind that the video allows."""
        subjects = types_of(kind)[0].subjects(self)
        return [draft for subject in subjects for draft in self.drafts_about(kind, subject)]

    def drafts_about(self, kind: str, subject: Any) -> list[Draft]:
        """Returns the questions of a kind about one of its subjects."""
        drafts = (question_type.draft(self, subject) for question_type in types_of(kind))
        return [draft for draft in drafts if draft is not None]


class QuestionType(abc.ABC):
    """A type of question. A base class holds what the types of a kind share, above all their subjects."""

    kind: ClassVar[str]
    # Kinds of questions about the same event that the evidence answers, too.
    evidence_answers: ClassVar[tuple[str, ...]] = ()
    options_are_times: ClassVar[bool] = False
    # All values that the fields of the phrasings can have.
    fields: ClassVar[Sequence[dict[str, str]]]

    def __init__(self, name: str, *phrasings: str):
        self.name, self.phrasings = name, phrasings

    @classmethod
    @abc.abstractmethod
    def subjects(cls, video: Video) -> Sequence[Any]:
        """Returns what questions of the kind can be about: an argument of `draft` each."""

    @abc.abstractmethod
    def draft(self, video: Video, subject: Any) -> Draft | None:
        """Returns the question about a subject, None where this type has none about it."""

    @abc.abstractmethod
    def shown(self, question: Question, segment: Segment) -> str:
        """Returns what a relevant segment shows for the answer."""

    def evidence(self, question: Question, segment: Segment) -> str:
        """See Question.evidence."""
        return self.shown(question, segment) if question.is_relevant(segment) else NOTHING

    def is_distractor(self, question: Question, segment: Segment) -> bool:
        """Returns whether it is another visit or card, or of the other sort in the colour that is named."""
        event = segment.event
        if event is None or event.kind == "turn":
            return False
        same_sort = event.kind == ("card" if question.named.endswith(" card") else "visit")
        return same_sort or question.has_named_colour(segment)

    def accepts(self, question: Question, reply: str) -> bool:
        """Returns whether the words are the answer's, except case, article and final stop."""
        return _plain(reply) == _plain(question.answer_text)


def _plain(text: str) -> str:
    return re.sub(r"^(the|a|an) ", "", text.strip().rstrip(".!").lower().strip())


def _span(event: Event) -> Span:
    return event.start, event.end


def _others(names: Iterable[str], *without: str) -> tuple[str, ...]:
    """Returns each name once, without the last ones, in order of first mention."""
    return tuple(name for name in dict.fromkeys(names) if name not in without)


class EventType(QuestionType):
    """Types of questions about one event."""

    @classmethod
    def subjects(cls, video: Video) -> Sequence[Event]:
        return video.events

    def about(
        self,
        video: Video,
        event: Event,
        answer: str,
        near: Iterable[str],
        far: Iterable[str],
        never: str = "",
        tolerance: float = 0.0,
    ) -> Draft:
        """Returns a draft; `never`: no distractor."""
        fields = {"colour": event.colour, "name": event.called, "lead": video.spec.lead.name}
        near, far = (_others(names, answer, never) for names in (near, far))
        return Draft(self, fields, answer, near, far, (_span(event),), tolerance)


class NamingType(QuestionType):
    """Types whose text names an event. The evidence of its segment is where it is, and its shape or letter.

    The colour is enough to know the event by, as no other of its kind has it: comparing shapes or letters
    with those of a question is more than so small a model learned (docs/results/demo-model.md).
    """

    def evidence(self, question: Question, segment: Segment) -> str:
        event = segment.event
        if event is not None and event.called == question.named:
            return f"{self.location(segment)} {event.shape}"
        return super().evidence(question, segment)

    def location(self, segment: Segment) -> str:
        """Returns where the event that is named appears."""
        return HERE


class LeadType(QuestionType):
    """Types about the lead's turn, which could be mistaken for the lead as usual."""

    def is_distractor(self, question: Question, segment: Segment) -> bool:
        return segment.spec.lead.name in segment.actors


class NeedleType(EventType):
    """Needles: a detail of an event, which its segment shows."""

    kind = "needle"

    def shown(self, question: Question, segment: Segment) -> str:
        return question.answer_text


class LetterType(NeedleType):
    fields = _COLOURS

    def draft(self, video: Video, subject: Event) -> Draft | None:
        if subject.kind != "card":
            return None
        return self.about(video, subject, subject.shape, video.shapes("card"), world.LETTERS)


class ShapeType(NeedleType):
    fields = _COLOURS

    def draft(self, video: Video, subject: Event) -> Draft | None:
        if subject.kind != "visit":
            return None
        return self.about(video, subject, subject.shape, video.shapes("visit"), world.VISITORS)


class TurnType(LeadType, NeedleType):
    fields = tuple({"lead": lead} for lead in _LEADS)

    def draft(self, video: Video, subject: Event) -> Draft | None:
        if subject.kind != "turn":
            return None
        seen = [event.colour for event in video.spec.events]
        return self.about(video, subject, subject.colour, seen, world.COLOURS, never=video.spec.lead.colour)


class PlaceType(NamingType, NeedleType):
    fields = _SHOWN

    def draft(self, video: Video, subject: Event) -> Draft | None:
        if subject.kind == "turn":
            return None
        places = [scene.place for scene in video.spec.scenes]
        return self.about(video, subject, video.spec.scene_at(subject.start).place, places, world.PLACES)

    def location(self, segment: Segment) -> str:
        return segment.place


class WhenType(EventType):
    """The time of an event; distractors are times of other events first."""

    kind = "when"
    options_are_times = True
    event_kinds: ClassVar[tuple[str, ...]]

    def draft(self, video: Video, subject: Event) -> Draft | None:
        length = video.spec.segment_seconds
        last = int(video.spec.seconds / length + 1e-6)  # complete segments
        if subject.kind not in self.event_kinds or last < len(LETTERS):
            return None
        label = [moment((i + 0.5) * length) for i in range(last)]
        answer = label[int(subject.start / length)]
        near = [label[int(event.start / length)] for event in video.spec.events]
        return self.about(video, subject, answer, near, label, tolerance=round(length, 3))

    def shown(self, question: Question, segment: Segment) -> str:
        return HERE

    def accepts(self, question: Question, reply: str) -> bool:
        """Returns whether the first number lies in the event's span, widened by `tolerance`."""
        number = re.search(r"\d+(\.\d+)?", reply)
        (start, end), slack = question.relevant_seconds[0], question.tolerance
        return number is not None and start - slack <= float(number[0]) <= end + slack


class WhenShownType(NamingType, WhenType):
    event_kinds = ("visit", "card")
    fields = _SHOWN


class WhenTurnedType(LeadType, WhenType):
    event_kinds = ("turn",)
    fields = tuple({"lead": lead, **colour} for lead, colour in product(_LEADS, _COLOURS))


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """Two events that appear once and in this order, none between them; and names of others."""

    first: Event
    second: Event
    strangers: tuple[str, ...]


class OrderType(NamingType):
    """The event next to another; both appear once, as do the distractors. `after`: the later one is asked."""

    kind = "order"
    evidence_answers = ("order", "when")  # the other neighbor, and the time
    fields = _SHOWN

    def __init__(self, name: str, *phrasings: str, after: bool):
        super().__init__(name, *phrasings)
        self.after = after

    @classmethod
    def subjects(cls, video: Video) -> Sequence[Neighbors]:
        names = [event.name for event in video.single]
        strangers = video.strangers()
        pairs = zip(video.shown, video.shown[1:])
        return [Neighbors(*pair, strangers) for pair in pairs if all(event.name in names for event in pair)]

    def draft(self, video: Video, subject: Neighbors) -> Draft:
        known, answer = (subject.first, subject.second) if self.after else (subject.second, subject.first)
        near = _others((event.name for event in video.single), answer.name, known.name)
        spans = tuple(map(_span, video.shown))
        return Draft(self, {"name": known.called}, answer.name, near, subject.strangers, spans)

    def shown(self, question: Question, segment: Segment) -> str:
        return segment.event.name

    def is_distractor(self, question: Question, segment: Segment) -> bool:
        """Returns whether it is a turn: all that appears matters, and a turn does not appear."""
        return segment.event is not None and segment.event.kind == "turn"


class CountType(NamingType):
    """How often the repeated visit appears; all counts are equally likely."""

    kind = "count"
    fields = _VISITS

    @classmethod
    def subjects(cls, video: Video) -> Sequence[str]:
        return [] if video.spec.counted is None else [video.spec.counted]

    def draft(self, video: Video, subject: str) -> Draft:
        spans = tuple(_span(event) for event in video.shown if event.name == subject)
        counts = (str(n + 1) for n in range(generate.MAX_REPEATS))
        answer = str(len(spans))
        return Draft(self, {"name": subject}, answer, _others(counts, answer), (), spans)

    def shown(self, question: Question, segment: Segment) -> str:
        return HERE


class GlobalType(QuestionType):
    """Questions about the whole video."""

    kind = "global"
    fields = ({},)

    @classmethod
    def subjects(cls, video: Video) -> Sequence[Span]:
        return [(0.0, video.spec.seconds)]


class MostPlaceType(GlobalType):
    def draft(self, video: Video, subject: Span) -> Draft:
        main = video.spec.place
        near = _others((scene.place for scene in video.spec.scenes), main)
        return Draft(self, {}, main, near, _others(world.PLACES, main), (subject,))

    def shown(self, question: Question, segment: Segment) -> str:
        return segment.place


class MostShapeType(GlobalType):
    def draft(self, video: Video, subject: Span) -> Draft:
        guests = tuple(guest.name for guest in video.spec.guests)
        return Draft(self, {}, video.spec.lead.name, guests, (), (subject,))

    def shown(self, question: Question, segment: Segment) -> str:
        return " and ".join(segment.actors)


# Types by name, within a kind in the order of the drafts about a subject: the place of an event is last.
TYPES: dict[str, QuestionType] = {
    question_type.name: question_type
    for question_type in (
        LetterType(
            "letter", "Which letter is on the {colour} card?", "What letter does the {colour} card show?"
        ),
        ShapeType(
            "shape", "Which shape flashes up in {colour}?", "What is the {colour} shape that flashes up?"
        ),
        TurnType(
            "turn",
            "What colour does the {lead} turn for a moment?",
            "Which colour does the {lead} change to?",
        ),
        PlaceType("place", "Where does the {name} appear?", "In which place is the {name} seen?"),
        WhenShownType("when", "When does the {name} appear?", "At what time is the {name} visible?"),
        WhenTurnedType(
            "when_turn", "When does the {lead} turn {colour}?", "At what time is the {lead} {colour}?"
        ),
        OrderType(
            "after",
            "What appears right after the {name}?",
            "Which thing comes next after the {name}?",
            after=True,
        ),
        OrderType(
            "before",
            "What appears right before the {name}?",
            "Which thing comes just before the {name}?",
            after=False,
        ),
        CountType("count", "How many times does a {name} appear?", "How often is a {name} shown?"),
        MostPlaceType(
            "most_place",
            "Where does most of the video take place?",
            "In which place does the video mainly play?",
        ),
        MostShapeType(
            "most_shape",
            "Which shape is the video mostly about?",
            "Which moving shape is on screen most of the time?",
        ),
    )
}


def types_of(kind: str) -> list[QuestionType]:
    """Returns the types of a kind, in the order of TYPES."""
    return [question_type for question_type in TYPES.values() if question_type.kind == kind]
