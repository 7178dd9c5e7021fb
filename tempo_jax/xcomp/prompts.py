"""XComp's prompt around the video, and where in it the question stands (xcomp §1.8)."""

from typing import NamedTuple

from tempo_jax.prompts import Tokenizer


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


def text(tokenizer: Tokenizer, question: str, message: str | None) -> Text:
    """The prompt of one question; message None: of an image, which lasts no time."""
    before = "\n" if message is None else f"\n{message}"
    after = question if message is None else f" {question}"
    said = tokenizer.encode(before + after)
    alone = tokenizer.encode(before)
    header = tokenizer.assistant_header
    start = next((i for i, (a, b) in enumerate(zip(alone, said)) if a != b), len(alone))
    suffix = [*said, tokenizer.ids.im_end, tokenizer.ids.newline, *header]
    return Text(tokenizer.llm_prefix_ids, suffix, start, len(suffix) - len(header))
