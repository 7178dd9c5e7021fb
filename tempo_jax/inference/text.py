"""From generated ids to text, whole or as it comes."""

from collections.abc import Sequence

from tempo_jax.prompts import Tokenizer


def finished_text(tokenizer: Tokenizer, ids: Sequence[int], eos: Sequence[int]) -> str:
    """The answer's text: without the end token, special tokens and outer white space."""
    return tokenizer.decode([i for i in ids if i not in eos]).strip()


class TextStream:
    """Cuts a growing list of ids into pieces of text that join to `finished_text`.

    What may still change is held back: a character whose bytes are not complete, and white space
    that may turn out to be the end.
    """

    def __init__(self, tokenizer: Tokenizer, eos: Sequence[int]):
        self._tokenizer, self._eos, self._sent = tokenizer, eos, ""

    def push(self, ids: Sequence[int], *, last: bool) -> str:
        """The next piece, given all ids so far; may be empty."""
        text = finished_text(self._tokenizer, ids, self._eos)
        if not last:
            text = text.rstrip("\ufffd").rstrip()
        if not text.startswith(self._sent):
            return ""
        piece = text[len(self._sent) :]
        self._sent = text
        return piece
