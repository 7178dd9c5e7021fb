"""Published results, shown beside measured ones and marked as such.

Tempo, arXiv 2604.08120, main table: accuracy in percent and, where it says so, visual tokens per frame
(docs/reference/tempo.md#published-results). XComp, arXiv 2604.14149, main table
(docs/reference/xcomp.md#published-results-of-xcomp).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """One published result; `group` is a group of a heading, empty for the score of the benchmark."""

    benchmark: str
    system: str
    accuracy: float
    tokens_per_frame: float | None = None
    max_frames: int = 1024
    budget: int | None = None
    group: str = ""


def _tempo(benchmark: str, accuracies: tuple[float, float], tokens: tuple[float, float], group: str = ""):
    return [
        Published(benchmark, "Tempo 6B", accuracy, per_frame, budget=budget, group=group)
        for accuracy, per_frame, budget in zip(accuracies, tokens, (4096, 8192))
    ]


OTHERS = {"gpt": ("GPT-4o", None), "flash": ("VideoChat-Flash 7B", 16.0), "qwen": ("Qwen3-VL 2B", None)}


def _others(benchmark: str, group: str = "", **accuracies: float):
    return [
        Published(benchmark, OTHERS[name][0], accuracy, OTHERS[name][1], 0, None, group)
        for name, accuracy in accuracies.items()
    ]


TABLE: tuple[Published, ...] = (
    *_tempo("longvideobench", (64.5, 65.1), (2.8, 3.1)),
    *_tempo("mlvu", (75.6, 75.2), (2.8, 3.3)),
    *_tempo("videomme", (67.8, 67.7), (3.6, 4.3)),
    *_tempo("videomme", (57.8, 57.0), (3.4, 4.1), group="long"),
    *_tempo("lvbench", (52.7, 52.3), (2.9, 3.5)),
    Published("lvbench", "Tempo 6B", 53.7, None, 2048, 12288),
    Published("longvideobench", "XComp 2B", 59.7),
    Published("mlvu", "XComp 2B", 66.7, None, 1024, 4096),
    Published("videomme", "XComp 2B", 45.6, None, 1024, 8192, "long"),
    Published("lvbench", "XComp 2B", 46.2),
    *_others("longvideobench", gpt=66.7, flash=64.7),
    *_others("mlvu", gpt=64.6, flash=74.7, qwen=68.3),
    *_others("videomme", gpt=71.9, flash=65.3, qwen=61.9),
    *_others("videomme", "long", gpt=65.3, flash=55.4),
    *_others("lvbench", gpt=30.8, flash=48.2, qwen=47.4),
)


def rows(benchmark: str) -> list[Published]:
    """Returns the results of one benchmark, in the order of the table."""
    return [row for row in TABLE if row.benchmark == benchmark]
