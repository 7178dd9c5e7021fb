"""The evaluation protocols of each system's authors: their prompts, parsers and scores.

XComp's is that of docs/reference/xcomp.md#evaluation-protocol-of-xcomp. Where only the parts of a prompt are
known, the line breaks between them are assumed, and Video-MME's instruction is that of Tempo's evaluation.
"""

import dataclasses
from collections.abc import Mapping

from tempo_jax.errors import TempoError
from tempo_jax.evaluation import parsing
from tempo_jax.evaluation.benchmarks import (
    BENCHMARKS,
    DIRECTLY,
    LONGVIDEOBENCH,
    LVBENCH,
    MINIREEL,
    MLVU,
    VIDEOMME,
    Benchmark,
)

QUESTION, OPTION = "Question: ", "\nOption:"
XCOMP = (
    dataclasses.replace(
        LVBENCH,
        split=True,
        option="{letter}. ({letter}) {option}",
        prompt_suffix=f"\n{DIRECTLY}",
        parse=parsing.stand_alone,
    ),
    dataclasses.replace(
        VIDEOMME,
        prompt_prefix=VIDEOMME.prompt_prefix + QUESTION,
        options_prefix=OPTION,
        prompt_suffix=f"\n{DIRECTLY}",
        parse=parsing.first_of_four,
    ),
    dataclasses.replace(
        MLVU,
        split=True,
        prompt_prefix=QUESTION,
        options_prefix=OPTION,
        option="({letter}) {option}",
        prompt_suffix=f"\n{DIRECTLY}",
        parse=parsing.stand_alone,
        mean_of="",
    ),
    dataclasses.replace(
        LONGVIDEOBENCH,
        title="LongVideoBench (val)",
        option="({letter}). {option}",
        parse=parsing.last_mentioned,
    ),
    MINIREEL,
)
PROTOCOLS: Mapping[str, Mapping[str, Benchmark]] = {
    "tempo": BENCHMARKS,
    "xcomp": {row.name: row for row in XCOMP},
}


def benchmark(name: str, system: str = "tempo") -> Benchmark:
    """Returns the benchmark of that name under a system's protocol; raises TempoError if unknown."""
    table = PROTOCOLS[system]
    if name not in table:
        raise TempoError(f"config.benchmark is {name!r}: use one of {', '.join(table)}")
    return table[name]
