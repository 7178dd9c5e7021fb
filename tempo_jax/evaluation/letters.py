"""Which option an answer names, as XComp's benchmarks read it (xcomp §5.1).

Rough on purpose: the published numbers are counted this way. "The answer is a dog" names A.
"""

import re

from tempo_jax.evaluation.parsing import STOCK_PHRASES


def choice(text: str) -> str:
    """LVBench, MLVU, MVBench: the letter of "B. because"; else the first letter A to E that stands alone, in
    either case and whatever the punctuation; "" where there is none."""
    text = text.strip()
    if found := re.match(r"([A-E])\.", text):
        return found[1]
    words = re.sub(r"[^\w\s]", " ", text).split()
    return next((word.upper() for word in words if re.fullmatch(r"[A-Ea-e]", word)), "")


def first_capital(text: str) -> str:
    """VideoMME: the first capital A to D of any word, once known lead-ins are gone; "" where there is none.

    The released list lacks two commas, so that "Best answer: C" names B there; here it names C.
    """
    for words in STOCK_PHRASES:
        text = text.replace(words, "")
    found = re.search(r"[ABCD]", text)
    return found[0] if found else ""
