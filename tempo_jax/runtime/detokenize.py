"""From generated ids to text, whole or as it comes."""

from collections.abc import Sequence

from tempo_jax.prompts import Tokenizer


def finished_text(tokenizer: Tokenizer, ids: Sequence[int], eos: Sequence[int]) -> str:
    """The answer's text: without the end token, special tokens and outer white space."""
    return tokenizer.decode([i for i in ids if i not in eos]).strip()


class TextStream:
    """Cuts a growing list of ids into pieces of text that join to `finished_text`.

    What may still change is held back: a character whose bytes are not complete, and white space
    that may turn out to be the end. stop: texts before which the answer ends; `stopped` tells that one came.
    """

    def __init__(self, tokenizer: Tokenizer, eos: Sequence[int], stop: Sequence[str] = ()):
        self._tokenizer, self._eos, self._stop = tokenizer, eos, stop
        self.sent, self.stopped = "", False

    def push(self, ids: Sequence[int], *, last: bool) -> str:
        """The next piece, given all ids so far; may be empty."""
        if self.stopped:
            return ""
        text = finished_text(self._tokenizer, ids, self._eos)
        ends = [text.find(stop) for stop in self._stop if stop in text]
        self.stopped = bool(ends)
        if ends:
            text = text[: min(ends)].rstrip()
        elif not last:
            text = text.rstrip("\ufffd").rstrip()
            text = text[: len(text) - max((_begun(text, stop) for stop in self._stop), default=0)].rstrip()
        if not text.startswith(self.sent):
            return ""
        piece = text[len(self.sent) :]
        self.sent = text
        return piece


def _begun(text: str, stop: str) -> int:
    """How many characters at the text's end may be the beginning of `stop`."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if stop.startswith(text[-size:])), 0)
