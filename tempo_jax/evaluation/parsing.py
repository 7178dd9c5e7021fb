"""Parses replies to option letters, as the reference evaluator does.

Sources: docs/reference/tempo.md#evaluation-protocol, docs/reference/xcomp.md#evaluation-protocol-of-xcomp.
A parser returns one of `letters`, or "" for an unparseable reply; it never raises. Quirks of the reference
code are kept on purpose: otherwise scores are not comparable.
"""

import re
import string
from collections.abc import Iterator

from tempo_jax.data.minireel import option_of

# Format in which a letter occurs -> its priority. The highest wins, among equals the one nearest the end.
PRIORITY = {
    "start": 10,
    "end": 9,
    "after a phrase": 7,
    "({})": 6,
    "{}.": 5,
    "{}:": 4,
    "{})": 3,
    "{} ": 2,
    "anywhere": 0,
}
MARKS = ("({})", "{}.", "{}:", "{})", "{} ")
_ANSWER_PHRASES = (
    "answer is", "correct answer is", "best answer is", "correct option is", "best option is", "choice is",
    "correct choice is",
)  # fmt: skip
PHRASES = (
    *_ANSWER_PHRASES, *(f"the {phrase}" for phrase in _ANSWER_PHRASES), "my answer is", "my choice is",
    "i choose", "i select", "i pick",
    "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip
PUNCTUATION = ",.!?;:'\""  # stripped one after the other, in this order, each once
STOCK_PHRASES = (
    "The best answer is", "The correct answer is", "The answer is", "The answer", "The best option is",
    "The correct option is", "Best answer:", "Best option:",
)  # fmt: skip


def by_format(reply: str, letters: str, options: tuple[str, ...] = ()) -> str:
    """Returns the letter in the format of the highest priority (LVBench, Video-MME, MLVU).

    Quirks kept: letters are capitals; "{}." and "{} " also end words ("USA "); after a phrase any later
    occurrence counts, so of "the answer is B, not A" it is A.
    """
    text = reply.strip()
    for mark in PUNCTUATION:
        text = text.strip(mark)
    found = list(_candidates(f" {text} ", letters))
    if not found:
        found = [("anywhere", text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found, key=lambda place: (PRIORITY[place[0]], place[1]), default=("", 0, ""))[2]


def _candidates(text: str, letters: str) -> Iterator[tuple[str, int, str]]:
    """Yields (format, position, letter) of every occurrence; `text` has outer spaces."""
    for mark in MARKS:
        for letter in letters:
            if (at := text.rfind(mark.format(letter))) >= 0:
                yield mark, at, letter
    lower = text.lower()
    for phrase in PHRASES:
        if (start := lower.find(phrase)) >= 0:
            for letter in letters:
                if (at := text.find(letter, start + len(phrase))) >= 0:
                    yield "after a phrase", at, letter
    bare = text.strip()
    if bare[:1] in letters and not bare[1:2].isalpha():
        yield from (("start", 0, letter) for letter in bare[:1])
    if bare[-1:] in letters and not bare[-2:-1].isalpha():
        yield from (("end", len(text), letter) for letter in bare[-1:])


def first_letter(reply: str, letters: str, options: tuple[str, ...] = ()) -> str:
    """Returns the first capital A to E after stock phrases are removed (LongVideoBench).

    Quirks kept: "An apple" is A; and it is A to E whatever the question offers, so an E where there are
    four options is incorrect, not unparseable.
    """
    return _first_capital_of(reply, "ABCDE")


def first_of_four(reply: str, letters: str, options: tuple[str, ...] = ()) -> str:
    """Returns the first capital A to D in the same way (XComp's Video-MME)."""
    return _first_capital_of(reply, "ABCD")


def _first_capital_of(reply: str, among: str) -> str:
    for phrase in STOCK_PHRASES:
        reply = reply.replace(phrase, "")
    return next((character for character in reply if character in among), "")


def stand_alone(reply: str, letters: str, options: tuple[str, ...] = ()) -> str:
    """Returns the letter that a reply begins with as "B. …", else the first that stands alone.

    XComp's LVBench and MLVU. Quirk kept: small letters count, so of "a bus, so B" it is A.
    """
    text = reply.strip()
    if begins := re.match(r"([A-E])\. ", text):
        return begins[1]
    words = "".join(" " if character in string.punctuation else character for character in text)
    found = re.search(r"\b([A-E])\b", words, re.IGNORECASE)
    return found[1].upper() if found else ""


def last_mentioned(reply: str, letters: str, options: tuple[str, ...] = ()) -> str:
    """Returns the last letter in the first format that occurs, else the option whose text occurs.

    XComp's LongVideoBench, as MMMU's evaluation: "(B)", then "B " and then "B."; an option's words count
    in replies of more than five.
    """
    text = reply
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    for form in ("({})", "{} ", "{}."):
        found = {letter: text.rfind(form.format(letter)) for letter in letters}
        if max(found.values()) >= 0:
            return max(found, key=found.get)
    if len(text.split()) > 5:
        lower = text.lower()
        said = {x: lower.rfind(o.lower()) for x, o in zip(letters, options) if o and o.lower() in lower}
        return max(said, key=said.get, default="")
    return ""


def by_words(reply: str, letters: str, options: tuple[str, ...] = ()) -> str:
    """Returns the letter, or the option whose text occurs (minireel, whose model answers in option texts)."""
    return option_of(reply, options) or ""
