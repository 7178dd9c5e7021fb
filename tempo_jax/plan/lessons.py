"""What a change was worth by the compiler's own estimates (26 and 27 November 2026, libtpu 0.0.42.1)."""

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
            ("one of an MLP's two products kept, too: not worth its name", "4.54 s", "40.6%"),
            (
                "what v6e-64 below was given, too: the vision tower's kernel, weights gathered behind "
                "products; heads turned by kernels (models/head_layout.py), causal kernels costed by their "
                "blocks; remat=attention,attention,dots",
                "3.42 s",
                "53.9%",
            ),
            ("the tower's queries, keys and values apart", "3.38 s", "54.6%"),
        ),
    ),
    Lesson(
        "stage 2 on v5p-64",
        ("step", "MFU"),
        (
            ("fsdp 32 and data 2, remat=attention", "3.16 s", "40.2%"),
            (
                "remat=dots, which fits, and 64 MiB of VMEM for a fusion (training/run.py): products a third "
                "less, attention again, more to write",
                "3.01 s",
                "42.2%",
            ),
            ("what attention gave kept, too", "3.02 s", "42.1%"),
            ("kernels, and weights behind products, as above", "2.28 s", "55.6%"),
        ),
    ),
    Lesson(
        "stage 3 on v6e-64",
        ("step", "MFU"),
        (
            ("fsdp 32 and data 2, remat=full", "4.39 s", "21.0%"),
            (
                "two chips to a row and half of the rows at a time (fsdp 32, tensor 2), remat=attention: XLA "
                "then goes through the LLM's weights piece by piece",
                "6.78 s",
                "13.6%",
            ),
            ("the first with 64 MiB of VMEM for a fusion (training/run.py)", "4.21 s", "21.9%"),
            (
                "the vision tower's kernel and patches by columns, weights gathered behind products",
                "3.79 s",
                "24.3%",
            ),
            (
                "heads turned by kernels (models/head_layout.py): other fusions 1.38 -> 0.69 s; "
                "remat=full,full,attention; causal kernels costed by their blocks, so 0.33 s more",
                "3.41 s",
                "27.0%",
            ),
            (
                "remat=attention,full,attention; the tower's queries, keys and values apart",
                "3.36 s",
                "27.4%",
            ),
        ),
    ),
    Lesson(
        "stage 2 on v6e-64",
        ("step", "MFU"),
        (
            ("fsdp 32 and data 2, remat=attention", "3.14 s", "20.2%"),
            ("all that stage 3 was given; remat=attention,attention,dots", "2.42 s", "26.2%"),
        ),
    ),
    Lesson(
        "stage 3 on v5e-256",
        ("step", "MFU"),
        (
            (
                "fsdp 32, data 2, tensor 4, remat=attention; temporaries add up to 113% of HBM",
                "2.82 s",
                "38.1%",
            ),
            ("tensor 8 and half of the rows at a time", "4.19 s", "25.6%"),
            ("the first with remat=full", "2.80 s", "38.4%"),
            ("all that stage 3 on v5p was given: remat=attention", "2.37 s", "45.3%"),
            ("remat=attention,attention,dots, in 91% of HBM: too much to rely on", "2.31 s", "46.5%"),
        ),
    ),
    Lesson(
        "what `--search` tried for stage 0 on v6e-64, in its order",
        ("step", "MFU", "HBM"),
        (
            ("tensor 8, fsdp 8, remat=full", "0.600 s", "8.2%", "15%"),
            ("tensor 4, fsdp 16", "0.389 s", "12.7%", "10%"),
            ("tensor 2, fsdp 32", "0.328 s", "15.1%", "8%"),
            ("fsdp 32, data 2", "0.187 s", "26.4%", "7%"),
            ("fsdp 64, whose parts of the weights are no whole tiles", "0.236 s", "21.0%", "7%"),
            ("fsdp 16, data 4", "0.191 s", "25.9%", "9%"),
            ("fsdp 32, data 2, remat=dots: the row below", "0.177 s", "28.0%", "24%"),
            ("remat=attention,attention,dots", "0.184 s", "26.9%", "19%"),
            ("remat=attention", "0.184 s", "26.9%", "9%"),
            ("remat=attention,full,attention", "0.183 s", "27.0%", "9%"),
        ),
    ),
    Lesson(
        "a layer on v6e-1, forward, once more and backward",
        ("products", "other fusions", "kernels (assumed)", "all"),
        (
            ("the compressor's, 48 rows of 1024, as it was", "29.9 ms", "27.5 ms", "11.5 ms", "68.9 ms"),
            (
                "norms of heads, rotation and turns by kernels that move (models/head_layout.py)",
                "28.5 ms",
                "7.5 ms",
                "17.1 ms",
                "53.1 ms",
            ),
        ),
    ),
    Lesson(
        "Qwen3-VL's vision tower on v6e-1, 64 frames of 256 x 512",
        ("a chunk", "of it kernels (assumed)"),
        (
            ("as it was, but heads of 64 no longer costed as 128", "65.3 ms", "10.2 ms"),
            (
                "heads side by side, rotation and biases in a kernel of our own (models/vision_attention.py)",
                "48.1 ms",
                "10.2 ms",
            ),
            (
                "patches embedded by columns, not laid out one by one (models/patches.py): 6.4 -> 1.1 ms; "
                "exact GELU by erf",
                "37.5 ms",
                "10.2 ms",
            ),
        ),
    ),
    Lesson(
        "XComp's vision tower on v6e-1, 32 frames",
        ("a chunk", "of it kernels (assumed)"),
        (
            ("as it was, heads of 64 as above", "330 ms", "184 ms"),
            (
                "the same kernel, patches by columns, exact GELU by erf (by erfc, as in JAX, a layer's MLP "
                "takes 3.6 ms, so 1.1)",
                "229 ms",
                "184 ms",
            ),
        ),
    ),
    Lesson(
        "what crosses a v6e-64 (fsdp 32, data 2) meanwhile: eight MLPs of Qwen3-4B, forward and backward",
        ("all", "in the open"),
        (
            (
                "as libtpu does by itself: nothing runs behind products",
                "25.6 ms",
                "12.3 ms",
            ),
            ("all-gathers behind products (async collective fusion, training/run.py)", "17.4 ms", "4.3 ms"),
            ("all of it on SparseCores: left off, as nobody here could run it", "12.7 ms", "0.0 ms"),
        ),
    ),
    Lesson(
        "a decode step on v6e-1, 8192 visual tokens",
        ("step", "over its floor", "once a call"),
        (
            ("as it was", "17.6 ms", "3.0 x", "-"),
            (
                "products of two rows, as XLA computes one outside the matrix unit "
                "(tpu_workarounds.matvec_as_matmul); but it turns caches around before and after the loop",
                "6.9 ms",
                "1.2 x",
                "7.5 ms",
            ),
            (
                "caches that lie by head, and are told to stay so (tpu_workarounds.constrain_cache_layout)",
                "6.9 ms",
                "1.2 x",
                "-",
            ),
            (
                "one token's attention in one kernel instead of a dozen fusions a layer "
                "(models/decode_attention.py)",
                "5.8 ms",
                "1.0 x",
                "-",
            ),
        ),
    ),
    Lesson(
        "a decode step elsewhere, before and with that kernel",
        ("before", "with it", "over its floor"),
        (
            ("v6e-4", "2.06 ms", "1.72 ms", "1.18 x"),
            (
                "v5e-8; without two sums a layer over 8 chips, 0.61 ms at an assumed microsecond a hop, it "
                "would be 1.05 x",
                "2.37 ms",
                "2.15 ms",
                "1.47 x",
            ),
            ("v5p-4", "2.92 ms", "1.77 ms", "2.05 x"),
            (
                "v5e-1 in int8: what a kernel reads is added to all else, what XLA reads ahead was not, so "
                "this is the stricter estimate",
                "7.24 ms",
                "8.75 ms",
                "1.21 x",
            ),
        ),
    ),
)
