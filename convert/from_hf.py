"""Hugging Face safetensors -> native checkpoint, one stacked array in memory at a time.

    python -m convert.from_hf --model=tempo --source=Tempo-6B --base=Qwen3-VL-2B-Instruct --target=DIR

Models: tempo (needs --base, the original Qwen3-VL: architecture and Yes/No rows), tempo-init (--source
a Qwen3 LLM and --base a Qwen3-VL, for training from stage 0), qwen3, qwen3-vl, xcomp (XComp-2B or
VideoChat-Flash-2B, whose tensors are the same). Sources are folders, or ids of the Hugging Face Hub.
"""

import collections
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from convert import hf_config, hf_export, hub, mapping, memory, their_config
from convert.safetensors_io import some
from convert.source import Source
from tempo_jax.errors import TempoError
from tempo_jax.utils import command_line, folders, paths, progress
from tempo_jax.utils.commit import AUTO, add_commit

MODELS = ("tempo", "tempo-init", "qwen3", "qwen3-vl", "xcomp")
DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32), "source": None}
TRIED_BYTES = 64 << 20  # read by --dry-run to see how fast that goes


def convert(
    model: str,
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    base: str | os.PathLike | None = None,
    adapter: str | os.PathLike | None = None,
    dtype: str = "source",
    memory_tokens: int = 128,
    seed: int = 0,
    overwrite: bool | str = False,
    commit: str = AUTO,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Converts a Hugging Face checkpoint to a native one.

    Args:
      model: one of MODELS.
      source: folder of the checkpoint, or its id on the Hugging Face Hub, org/name[@revision].
      target: folder to write.
      base: the Qwen3-VL of a Tempo, a folder or id.
      adapter: a LoRA of PEFT to merge, a folder or id.
      dtype: "bfloat16", "float32", or "source": each stack keeps its own (mixed ones become float32).
      memory_tokens: memory tokens of a new Tempo ("tempo-init").
      seed: seed of the initial values of a new Tempo.
      overwrite: True replaces a folder that tempo_jax wrote, "force" any folder.
      commit: as in `folders.atomic_directory`.
      note: called with remarks about the source.

    Raises:
      TempoError: The source cannot be converted, for all reasons at once, or the target cannot be written.
    """
    from convert import native_io

    check_arguments(model, base, dtype, memory_tokens)
    with _opened(model, source, base, adapter, memory_tokens) as (opened, read, places):
        for text in opened.notes:
            note(text)
        folders.check_space(target, _written_bytes(opened, dtype))
        origin = _origin(opened, dtype) | places
        args = (target, opened.kind, opened.config, opened.folder, origin)
        with (
            native_io.saving(*args, overwrite=overwrite, keep=read, commit=commit) as put,
            progress.reporter(in_bytes=True) as report,
        ):
            total, done = sum(part.nbytes for part in opened.parts), 0

            def seen(nbytes: int) -> None:
                nonlocal done
                done += nbytes
                report("converting", done, total)

            for name, array in _arrays(opened, DTYPES[dtype], seed, seen):
                put(name, array)
                del array  # not held while the next one is read


def plan(
    model: str,
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    base: str | os.PathLike | None = None,
    adapter: str | os.PathLike | None = None,
    dtype: str = "source",
    memory_tokens: int = 128,
    overwrite: bool | str = False,
    **_: Any,
) -> list[str]:
    """Describes what `convert` would do, without writing anything.

    Takes the arguments of `convert`, and raises TempoError as it does.

    Returns:
      Lines of text: remarks, tensors and bytes to convert, space and time needed.
    """
    check_arguments(model, base, dtype, memory_tokens)
    with _opened(model, source, base, adapter, memory_tokens) as (opened, read, _):
        place = paths.absolute(paths.path("the target", target))
        for folder in read:
            folders.check_apart(place, folder)
        folders.check_replaceable(place, overwrite)
        wanted = DTYPES[dtype]
        sizes: collections.Counter = collections.Counter()
        for part in opened.parts:
            into = wanted or part.dtype
            sizes[f"{'mixed' if len(set(part.dtypes)) > 1 else part.dtype.name} to {into.name}"] += (
                part.nbytes
            )
        tensors = sum(len(part.tensor.hf) for part in opened.parts)
        nbytes = _written_bytes(opened, dtype)
        seconds = sum(part.nbytes for part in opened.parts) / _speed(opened)
        kinds = ", ".join(f"{progress.size(n)} of {name}" for name, n in sizes.most_common())
        free = _free(place)
        return [
            *opened.notes,
            f"{opened.folder}: {opened.kind}, {tensors} tensors into {len(opened.parts)} arrays ({kinds})",
            f"{target}: {progress.size(nbytes)} to write, {free}about "
            f"{progress.duration(seconds)}; nothing is written (--dry-run)",
        ]


def _free(place: paths.AnyPath) -> str:
    if paths.remote(place):
        return ""
    free = shutil.disk_usage(next(p for p in (place, *place.parents) if p.exists())).free
    return f"{progress.size(free)} free there, "


def _speed(opened: Source) -> float:
    """Bytes per second of reading and transposing the first arrays, halved for writing them."""
    began, nbytes = time.monotonic(), 0
    for part in opened.parts:
        if nbytes and nbytes + part.nbytes > TRIED_BYTES:
            continue
        part.read(part.dtype)
        nbytes += part.nbytes
    return nbytes / max(time.monotonic() - began, 1e-3) / 2


@contextlib.contextmanager
def _opened(
    model: str, source: Any, base: Any, adapter: Any, memory_tokens: int
) -> Iterator[tuple[Source, list[Path], dict[str, Any]]]:
    """The source, the folders that are read, and what model.json says of where they are from."""
    sources = {"source": source, "base": base, "adapter": adapter}
    located = {role: hub.locate(f"the {role}", path) for role, path in sources.items() if path is not None}
    origin = {role: f"{location.hub}@{location.commit}" for role, location in located.items() if location.hub}
    folders_by_role = {role: location.folder for role, location in located.items()}
    if adapter is not None:
        origin.setdefault("adapter", folders_by_role["adapter"].name)
    with Source(
        model,
        folders_by_role["source"],
        folders_by_role.get("base"),
        memory_tokens,
        folders_by_role.get("adapter"),
    ) as opened:
        _check_reading(opened)
        yield opened, list(folders_by_role.values()), {"from": origin} if origin else {}


def _check_reading(opened: Source) -> None:
    """TempoError where the installed transformers reads the configuration otherwise than we do.

    The tables of hf_fields say what both do; this is for what they do not know of.
    """
    pairs = [(opened.kind, opened.config, opened.folder, opened.base)]
    if opened.model == "tempo-init":
        pairs = [
            ("qwen3", opened.config.llm, opened.folder, None),
            ("qwen3-vl", opened.config.compressor, opened.base, None),
        ]
    for kind, config, folder, base in pairs:
        headless = opened.model == "tempo-init" and kind == "qwen3-vl"
        differing, _ = their_config.split(kind, config, folder, base, headless=headless)
        if differing:
            raise TempoError(f"{folder}: config.json cannot be followed ({some(differing, 3)})")


def _written_bytes(opened: Source, dtype: str) -> int:
    wanted = DTYPES[dtype]
    return sum(part.nbytes // part.dtype.itemsize * (wanted or part.dtype).itemsize for part in opened.parts)


def _arrays(
    opened: Source, dtype: np.dtype | None, seed: int, seen: Callable[[int], None]
) -> Iterator[tuple[str, np.ndarray]]:
    for part in opened.parts:
        yield part.tensor.native, part.read(dtype or part.dtype, seen)
    if opened.model == "tempo-init":
        from convert import initial

        yield from initial.arrays(opened, dtype, seed)
    if opened.kind == "tempo":
        yield mapping.DIRECTION, opened.direction()


def _origin(opened: Source, dtype: str) -> dict[str, Any]:
    """The origin in model.json, which `to_hf` needs to write byte-identical files."""
    embedding = next(p for p in reversed(opened.parts) if p.tensor.native.endswith("embed/embedding"))
    values = hf_config.read_json(opened.folder)
    values.pop("quantization_config", None)  # what is written is not quantized any more
    origin = {"model": opened.model, "config": values, "source_dtype": embedding.dtype.name}
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
    parser = command_line.Parser(prog="convert.from_hf", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", required=True, choices=MODELS)
    add(
        "--source",
        required=True,
        metavar="DIR",
        help="Hugging Face folder, or its id: org/name[@revision]",
    )
    add("--base", metavar="DIR", help="Qwen3-VL base model (tempo, tempo-init), or its id")
    add("--adapter", metavar="DIR", help="LoRA adapter of PEFT to merge into the source, or its id")
    add("--target", required=True, metavar="DIR", help="native checkpoint to write")
    add("--dtype", default="source", choices=tuple(DTYPES))
    add("--memory-tokens", type=int, default=128, metavar="N", help="tempo-init: how many (128)")
    add("--seed", type=int, default=0, metavar="N", help="tempo-init: of the initial values (0)")
    add("--dry-run", action="store_true", help="print what would be written, and write nothing")
    folders.add_overwrite(parser)
    add_commit(parser)
    args = vars(parser.parse_args(argv))

    def command() -> int:
        if args.pop("dry_run"):
            print("\n".join(plan(**args)))
            return 0
        convert(**args, note=lambda text: command_line.say(f"{parser.prog}: note: {text}"))
        print(f"wrote {args['target']}")
        return 0

    return command_line.run_on_cpu(parser.prog, command)


if __name__ == "__main__":
    sys.modules.setdefault("torch", None)  # transformers would import it, for a second, to parse a config
    memory.reuse()
    sys.exit(main())
