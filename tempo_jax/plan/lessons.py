"""What a change was worth by the compiler's own estimates (26 November 2026, libtpu 0.0.42.1)."""

from typing import NamedTuple


class Lesson(NamedTuple):
    what: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # the change, then a cell per column


LESSONS = (
    Lesson(
        "stage 3 on v5p-64",
        ("step", "MFU"),
        (
            ("as it was: fsdp 64, remat=full", "5.07 s", "36.3%"),
            (
                "chips gather memory tokens from their own part of the pool (models/pool.py)",
                "5.04 s",
                "36.6%",
            ),
            (
                "fsdp 32 and data 2, as weights in whole tiles are gathered and others are written into "
                "zeros and added up over the chips; remat=attention; chunks of 1024 labels; the vision "
                "tower's q, k, v cut from weights",
                "4.95 s",
                "37.2%",
            ),
            ("its heads shaped in the weights, its rotation's quarter turns made of them", "4.56 s", "40.4%"),
        ),
    ),
    Lesson(
        "a decode step on v6e-1, 8192 visual tokens",
        ("step", "over its floor", "once a call"),
        (
            ("as it was", "17.6 ms", "3.0 x", "-"),
            (
                "products of two rows, as XLA computes one outside the matrix unit (layers.by_rows); but it "
                "turns all caches around before and after the loop",
                "6.9 ms",
                "1.2 x",
                "7.5 ms",
            ),
            ("caches that lie by head, and are told to stay so (decoder._by_head)", "6.9 ms", "1.2 x", "-"),
        ),
    ),
)
