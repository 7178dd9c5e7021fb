"""Hugging Face safetensors -> native checkpoint, one stacked array in memory at a time.

    python -m convert.from_hf --model=tempo --source=Tempo-6B --base=Qwen3-VL-2B-Instruct --target=DIR

Models: tempo (needs --base, the original Qwen3-VL: architecture and Yes/No rows), tempo-init (--source
a Qwen3 LLM and --base a Qwen3-VL, for training from stage 0), qwen3, qwen3-vl, xcomp (XComp-2B or
VideoChat-Flash-2B, whose tensors are the same).
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from convert import hf_config, hf_export, mapping
from convert.source import Source
from tempo_jax import cli_options, folders
from tempo_jax.errors import TempoError

MODELS = ("tempo", "tempo-init", "qwen3", "qwen3-vl", "xcomp")
DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32), "source": None}


def convert(
    model: str,
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    base: str | os.PathLike | None = None,
    dtype: str = "source",
    memory_tokens: int = 128,
    seed: int = 0,
    overwrite: bool | str = False,
) -> None:
    """Writes a native checkpoint to `target`; raises TempoError naming everything that is wrong.

    `dtype` "source" keeps every stack's own (mixed stacks become float32, without loss).
    `memory_tokens` and `seed`: of the random initial values, for "tempo-init" only.
    """
    from convert import native_io
    from tempo_jax import progress

    check_arguments(model, base, dtype, memory_tokens)
    with Source(model, Path(source), Path(base) if base else None, memory_tokens) as opened:
        origin = _origin(opened, dtype)
        args = (target, opened.kind, opened.config, source, origin)
        safe = {"overwrite": overwrite, "keep": (source, base)}
        with native_io.saving(*args, **safe) as put, progress.reporter() as report:
            total = len(mapping.native_shapes(opened.kind, opened.config))
            arrays = _arrays(opened, DTYPES[dtype], seed)
            for done in range(1, total + 1):  # enumerate() would hold an array while the next is read
                put(*next(arrays))
                report("converting", done, total)


def _arrays(opened: Source, dtype: np.dtype | None, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    for part in opened.parts:
        yield part.tensor.native, part.read(dtype or part.dtype)
    if opened.model == "tempo-init":
        from convert import initial

        yield from initial.arrays(opened, dtype, seed)
    if opened.kind == "tempo":
        yield mapping.DIRECTION, opened.direction()


def _origin(opened: Source, dtype: str) -> dict[str, Any]:
    """What `to_hf` needs to write back the very same files."""
    embedding = next(p for p in reversed(opened.parts) if p.tensor.native.endswith("embed/embedding"))
    origin = {
        "model": opened.model,
        "config": hf_config.read_json(opened.folder),
        "source_dtype": embedding.dtype.name,
    }
    if opened.model == "tempo-init":
        fresh = hf_export.export("tempo", opened.config, {}, embedding.dtype.name)
        origin["config"] |= {k: v for k, v in fresh.items() if v is not None or k not in origin["config"]}
    if opened.heads:
        origin["tied_heads"] = opened.heads
    if opened.bare:
        origin["bare"] = True
    mixed = {p.tensor.native: p.dtypes for p in opened.parts if len(set(p.dtypes)) > 1}
    if mixed and dtype == "source":
        origin["mixed_dtypes"] = mixed
    return origin


def check_arguments(model: str, base: Any, dtype: str, memory_tokens: int = 1) -> None:
    """TempoError for values that no conversion takes."""
    if model not in MODELS:
        raise TempoError(f"the model {model!r} is unknown: expected one of {', '.join(MODELS)}")
    if dtype not in DTYPES:
        raise TempoError(f"the dtype {dtype!r} is unknown: expected one of {', '.join(DTYPES)}")
    if memory_tokens < 1:
        raise TempoError(f"--memory-tokens is {memory_tokens}: give at least 1 (the published model has 128)")
    if base is not None and model not in ("tempo", "tempo-init"):
        raise TempoError(f"--base is for --model=tempo and tempo-init; leave it out for {model}")


def main(argv: list[str] | None = None) -> int:
    parser = cli_options.Parser(prog="convert.from_hf", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, choices=MODELS)
    parser.add_argument("--source", required=True, metavar="DIR", help="Hugging Face checkpoint")
    parser.add_argument("--base", metavar="DIR", help="Qwen3-VL base model (tempo, tempo-init)")
    parser.add_argument("--target", required=True, metavar="DIR", help="native checkpoint to write")
    parser.add_argument("--dtype", default="source", choices=tuple(DTYPES))
    parser.add_argument("--memory-tokens", type=int, default=128, help="tempo-init: how many (128)")
    parser.add_argument("--seed", type=int, default=0, help="tempo-init: of the initial values (0)")
    folders.add_overwrite(parser)
    args = parser.parse_args(argv)

    def command() -> int:
        options = {k: v for k, v in vars(args).items() if k not in ("model", "source", "target")}
        convert(args.model, args.source, args.target, **options)
        print(f"wrote {args.target}")
        return 0

    return cli_options.run_on_cpu(parser.prog, command)


if __name__ == "__main__":
    sys.exit(main())
