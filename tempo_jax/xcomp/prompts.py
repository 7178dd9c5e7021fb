"""XComp's prompt around the video, and where in it the question stands (xcomp §1.8)."""

from collections.abc import Sequence
from typing import NamedTuple

from tempo_jax.prompts import Message, Tokenizer


class Text(NamedTuple):
    """Token ids before and after the video."""

    prefix: list[int]
    suffix: list[int]
    question_start: int  # in the suffix: the first token that is not the time message's
    question_end: int  # … one past the user turn, where the assistant's header starts


def time_message(duration_seconds: float, frames: int) -> str:
    """What the published weights are told: the frames that were sampled, not those that stay."""
    lasts = f"The video lasts for {duration_seconds:.2f} seconds"
    return f"{lasts}, and {frames} frames are uniformly sampled from it."


def text(
    tokenizer: Tokenizer, question: str, message: str | None, conversation: Sequence[Message] = ()
) -> Text:
    """The prompt of one question; message None: of an image, which lasts no time.

    conversation: as of `Tokenizer.chat_ids`; what is scored is the question alone.
    """
    before = "" if message is None else message
    shown = next((i for i, m in enumerate(conversation) if m.video), None)
    header = tokenizer.assistant_header
    if shown is None:
        said = f"{before} {question}" if before else question
        prefix, suffix = tokenizer.chat_ids(said, conversation)
        alone = tokenizer.encode(f"\n{before}")
        start = next((i for i, (a, b) in enumerate(zip(alone, suffix)) if a != b), len(alone))
        return Text(prefix, suffix, start, len(suffix) - len(header))
    first = conversation[shown]
    earlier = [*conversation]
    earlier[shown] = first._replace(text=f"{before} {first.text}" if before else first.text)
    prefix, suffix = tokenizer.chat_ids(question, earlier)
    end = len(suffix) - len(header)
    start = end - len(tokenizer.turn("user", question)) + 1 + len(tokenizer.encode("user\n"))
    return Text(prefix, suffix, start, end)
