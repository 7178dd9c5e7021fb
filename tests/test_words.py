"""Words of the code and of `--help` are those of the field: comments, docstrings and messages.

tests/test_docs_language.py holds the pages to a longer list.
"""

import argparse
import io
import re
import tokenize
from pathlib import Path

import pytest

from tempo_jax.cli import entry

REPO = Path(__file__).resolve().parent.parent
PLACES = ("tempo_jax", "convert", "configs", "benchmarks", "examples", "tools", "train.py", "eval.py")
FILES = [
    file
    for place in PLACES
    for file in ([REPO / place] if place.endswith(".py") else sorted((REPO / place).rglob("*.py")))
]

# Questions of minireel ask for colours: the demo model was trained on them, and its data files have the word.
COLOURS, COLOURFUL = "colours?", "tempo_jax/data/minireel"

# A banned word (regular expression, whole words, any case) -> what to write.
WORDS = {
    r"facts/\w+\.md|\(?facts §|DESIGN §": "docs/reference/…",
    r"pip install '?\"?tempo_jax": "pip install -e '.[…]'",
    "optimis(e|er|ed|ing|ation)|(rematerial|quant|normal|util|initial|summar)is\\w+": "American spelling",
    "(recogn|organ|minim|maxim|token)is(e|es|ed|er|ing|ation)": "American spelling",
    COLOURS: "American spelling",
    "behaviours?|neighbours?|favour\\w*|centres?|labelled|modelled": "American spelling",
    "nobody|whoever|somebody": "say which process, user or thread",
    "user's mistake|a mistake": "usage error, invalid input",
    "bugs? of ours": "internal error",
    "(is|in|with|becomes|ends in) (one|a) sentence": "a one-line message",
    "goes on|going on|go on": "resumes; continues",
    "begun": "started",
    "not finite": "non-finite",
    "frames? (per second )?to look at|looks at|looking at the": "sampled frames; encoded",
    "decoded and seen|seen once": "encoded once",
    "written together": "decoded in a batch",
    "in the open": "exposed",
    "the (published|released) (code|system)": "the reference implementation, the authors' code",
    "recorded runs?": "golden outputs",
    "(is|are) told": "reported, logged",
    "without a word": "silently",
}


def prose(path):
    """(line, text) of comments and strings; a string of one word is a name, as of fields in files."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        name = token.type == tokenize.STRING and re.fullmatch(r"[\"'][\w.]+[\"']", token.string)
        if token.type in (tokenize.COMMENT, tokenize.STRING) and not name:
            yield token.start[0], token.string


def banned(text, words=WORDS):
    """Banned words of a text, with what to write."""
    text = " ".join(text.replace("#", " ").split())
    return [
        f"{match[0]!r}: write {instead} (…{text[max(0, match.start() - 40) : match.end() + 20]}…)"
        for word, instead in words.items()
        for match in re.finditer(rf"(?<!\w)(?:{word})(?!\w)", text, re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPO).as_posix())
def test_code(path):
    place = path.relative_to(REPO).as_posix()
    words = {word: instead for word, instead in WORDS.items() if word != COLOURS or COLOURFUL not in place}
    found = [f"line {line}: {what}" for line, text in prose(path) for what in banned(text, words)]
    assert not found, "\n".join(found)


def parsers():
    parser = entry._parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return {"tempo": parser, **commands.choices}


@pytest.mark.parametrize("command", parsers())
def test_help(command):
    text = parsers()[command].format_help()
    assert "usage:" in text
    assert not banned(text), "\n".join(banned(text))


def test_banned_words_are_found(tmp_path):
    file = tmp_path / "a.py"
    file.write_text('"""One of\nfacts/tempo.md."""\nx = 1  # a bug of ours, and the\n# optimiser\n')
    found = [what for _, text in prose(file) for what in banned(text)]
    assert len(found) == 3
