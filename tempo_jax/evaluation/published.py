"""Published numbers, to stand beside ours and never to be taken for them (facts/tempo.md §5.2).

Tempo, arXiv 2604.08120, main table: accuracy in percent and, where it says so, visual tokens per frame.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """One cell. group: of a heading, as ("duration", "long"); empty: the benchmark's score."""

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


def _others(benchmark: str, *rows: tuple[str, float, float | None], group: str = ""):
    return [Published(benchmark, name, accuracy, tokens, 0, None, group) for name, accuracy, tokens in rows]


TABLE: tuple[Published, ...] = (
    *_tempo("longvideobench", (64.5, 65.1), (2.8, 3.1)),
    *_tempo("mlvu", (75.6, 75.2), (2.8, 3.3)),
    *_tempo("videomme", (67.8, 67.7), (3.6, 4.3)),
    *_tempo("videomme", (57.8, 57.0), (3.4, 4.1), group="long"),
    *_tempo("lvbench", (52.7, 52.3), (2.9, 3.5)),
    Published("lvbench", "Tempo 6B", 53.7, None, 2048, 12288),
    *_others("longvideobench", ("GPT-4o", 66.7, None), ("VideoChat-Flash 7B", 64.7, 16)),
    *_others("mlvu", ("GPT-4o", 64.6, None), ("VideoChat-Flash 7B", 74.7, 16), ("Qwen3-VL 2B", 68.3, None)),
    *_others("videomme", ("GPT-4o", 71.9, None), ("VideoChat-Flash 7B", 65.3, 16), ("Qwen3-VL 2B", 61.9, None)),
    *_others("videomme", ("GPT-4o", 65.3, None), ("VideoChat-Flash 7B", 55.4, 16), group="long"),
    *_others("lvbench", ("GPT-4o", 30.8, None), ("VideoChat-Flash 7B", 48.2, 16), ("Qwen3-VL 2B", 47.4, None)),
)  # fmt: skip


def rows(benchmark: str) -> list[Published]:
    """Those of one benchmark, in the order of the table."""
    return [row for row in TABLE if row.benchmark == benchmark]
