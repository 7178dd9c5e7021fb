"""Text of users and for users."""

import re


def clean_text(text: str) -> str:
    """Lone surrogates (bytes of a command line that are not UTF-8) replaced; no tokenizer takes them."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
