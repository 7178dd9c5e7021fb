"""Native checkpoint -> Hugging Face safetensors in the layout of the released files, whole or one part.

    python -m convert.to_hf --source=DIR --target=DIR [--part=llm|compressor] [--max-shard-size=5GB]

Tensors come out byte-identical to those that `from_hf` read. Every tensor's place in the files is
known beforehand, so that one stacked array at a time is read and its layers written where they belong.
"""

import argparse
import dataclasses
import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from convert import hf_config, hf_export, mapping, memory
from convert.safetensors_io import DTYPES, NAMES, Writer, some
from convert.source import contiguous
from tempo_jax.errors import TempoError
from tempo_jax.utils import command_line, folders, paths, progress
from tempo_jax.utils.commit import AUTO, add_commit
from tempo_jax.utils.text import count

SHARD_BYTES = 5_000_000_000
CASTS = {"bfloat16": "BF16", "float32": "F32", "source": None}
UNITS = {"": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
# Kind of model -> part -> what it is as a model of its own, and where its arrays are.
PARTS = {
    "tempo": {"llm": ("qwen3", "llm/"), "compressor": ("qwen3-vl", "compressor/")},
    "xcomp": {"llm": ("qwen3", "llm/")},
}
OF_THE_LLM = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The files to write: `config` as config.json, `tensors` as `specs` (name, dtype name, shape)."""

    config: dict
    tensors: list[mapping.TensorSpec]
    dtypes: dict[str, list[str]]
    copies: dict[str, str]
    specs: list[tuple[str, str, tuple[int, ...]]]

    @property
    def nbytes(self) -> int:
        return sum(math.prod(shape) * DTYPES[dtype].itemsize for _, dtype, shape in self.specs)


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    part: str | None = None,
    dtype: str = "source",
    max_shard_bytes: int = SHARD_BYTES,
    overwrite: bool | str = False,
    commit: str = AUTO,
) -> None:
    """Writes config.json, safetensors (with an index when sharded) and tokenizer files.

    Args:
      source: folder of a native checkpoint.
      target: folder to write.
      part: "llm" or "compressor" of a Tempo, or "llm" of an XComp, as a plain Qwen3 or Qwen3-VL folder.
      dtype: "bfloat16", "float32", or "source": the dtype of the original files, else the stored one.
      max_shard_bytes: maximum size of a safetensors file.
      overwrite: True replaces a folder that tempo_jax wrote, "force" any folder.
      commit: as in `folders.atomic_directory`; config.json, without which nothing loads, is written last.

    Raises:
      TempoError: The checkpoint cannot be read or has no such part, or the target cannot be written.
    """
    from convert import native_io
    from tempo_jax import checkpoint

    planned = plan_export(source, part, dtype)
    folders.check_space(target, planned.nbytes)
    with (
        folders.atomic_directory(target, overwrite, keep=[source], commit=commit) as place,
        paths.staged(place, folders.LAST) as folder,
        progress.reporter(in_bytes=True) as report,
    ):
        with Writer(folder, sorted(planned.specs, key=_natural), max_shard_bytes) as writer:
            arrays = native_io.stored_arrays(source, [tensor.native for tensor in planned.tensors])
            done = 0
            for tensor in planned.tensors:
                array = next(arrays)
                _write(writer, tensor, planned.dtypes[tensor.native], array, planned.copies)
                done += array.nbytes
                report("exporting", done, planned.nbytes)
                del array
        tokenizer = paths.fetched(paths.path("the source", source) / "tokenizer")
        if tokenizer.is_dir():
            checkpoint.copy_tokenizer(tokenizer, folder)
        text = json.dumps(planned.config, indent=2)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def plan_export(source: str | os.PathLike, part: str | None = None, dtype: str = "source") -> Plan:
    """Plans what `convert` writes; raises TempoError as it does."""
    from tempo_jax import checkpoint

    model = checkpoint.read_model_json(source)
    stored = checkpoint.param_shapes(source)
    tensors = plan(model, stored)
    origin = model.origin
    if part is not None:
        model, tensors = _part(model, part)
        origin = {k: v for k, v in origin.items() if k == "mixed_dtypes"}
    dtypes = _dtypes(origin, tensors, stored, dtype)
    copies = {} if part else _copies(model, tensors)
    specs = [(n, d, t.hf_shape) for t in tensors for n, d in zip(t.hf, dtypes[t.native], strict=True)]
    by_name = {spec[0]: spec for spec in specs}
    specs += [(copy, *by_name[name][1:]) for name, copy in copies.items()]
    embedding = next(t for t in reversed(tensors) if t.native.endswith("embed/embedding"))
    name = DTYPES[dtypes[embedding.native][0]].name
    config = hf_export.export(model.kind, model.config, {} if part else origin, name)
    if part:
        full_config = checkpoint.read_model_json(source).origin.get("config") or {}
        config |= _part_fields(
            model.kind, full_config, paths.fetched(paths.path("the source", source) / "tokenizer")
        )
    return Plan(config, tensors, dtypes, copies, specs)


def plan(model: Any, stored: dict[str, Any]) -> list[mapping.TensorSpec]:
    """The tensors of a native checkpoint; a TempoError when its arrays are not those of its config."""
    expected = mapping.native_shapes(model.kind, model.config)
    wrong = [
        f"{path} is {list(stored[path].shape) if path in stored else 'missing'}, expected "
        f"{list(expected[path]) if path in expected else 'nothing'}"
        for path in sorted(expected.keys() | stored.keys())
        if path not in stored or path not in expected or tuple(stored[path].shape) != expected[path]
    ]
    if wrong:
        raise TempoError(f"the parameters do not fit model.json: {some(wrong)}")
    return mapping.tensors(model.kind, model.config, bare=is_bare(model.origin))


def is_bare(origin: dict) -> bool:
    """Whether the files that a checkpoint came from were named without "model."; "prefixes" said so once."""
    return bool(origin.get("bare", "prefixes" in origin))


def _part(model: Any, part: str) -> tuple[Any, list[mapping.TensorSpec]]:
    """A part as a model of its own, and its tensors by the whole model's native paths."""
    parts = PARTS.get(model.kind, {})
    if part not in parts:
        has = f"its parts are {', '.join(parts)}" if parts else "it has no parts"
        raise TempoError(f"a {model.kind} model has no part {part!r}: {has}")
    kind, prefix = parts[part]
    config = getattr(model.config, part)
    tensors = mapping.tensors(kind, config)
    tensors = [dataclasses.replace(tensor, native=prefix + tensor.native) for tensor in tensors]
    return dataclasses.replace(model, kind=kind, config=config), tensors


def _part_fields(kind: str, full_config: dict, tokenizer: Path) -> dict:
    """Fields of a part's config.json from the whole model's config or from the tokenizer."""
    if kind == "qwen3":
        return {name: full_config[name] for name in OF_THE_LLM if full_config.get(name) is not None}
    ids = hf_config.tokenizer_ids(tokenizer)
    return {field: ids[token] for field, token in hf_config.SPECIAL_IDS.items() if token in ids}


def _dtypes(
    origin: dict, tensors: list[mapping.TensorSpec], stored: dict, dtype: str
) -> dict[str, list[str]]:
    """Native path -> dtype name of each HF tensor. Stacks made of mixed dtypes go back to those."""
    mixed = origin.get("mixed_dtypes", {})
    out = {}
    for t in tensors:
        dtype_name = CASTS[dtype] or NAMES[np.dtype(stored[t.native].dtype)]
        out[t.native] = (
            mixed.get(t.native, [dtype_name] * len(t.hf)) if dtype == "source" else [dtype_name] * len(t.hf)
        )
    return out


def _copies(model: Any, tensors: list[mapping.TensorSpec]) -> dict[str, str]:
    """Embedding -> the redundant head to store beside it, where the original files had one."""
    tied = mapping.tied_heads(model.kind, model.config, tensors)
    return {tied[head]: head for head in model.origin.get("tied_heads", []) if head in tied}


def _write(
    writer: Writer, tensor: mapping.TensorSpec, dtypes: list[str], array: np.ndarray, copies: dict
) -> None:
    for i, (name, dtype) in enumerate(zip(tensor.hf, dtypes, strict=True)):
        matrix = array[i] if tensor.stacked else array
        matrix = matrix.T if mapping.transposes(tensor.transform) else matrix
        hf = contiguous(matrix).reshape(tensor.hf_shape)
        cast = hf.astype(DTYPES[dtype], copy=False)
        if len(set(dtypes)) > 1 and not np.array_equal(cast.astype(hf.dtype), hf, equal_nan=True):
            raise TempoError(
                f"{name} has changed and no longer fits the {dtype} it came in: "
                "pass --dtype=float32 or --dtype=bfloat16"
            )
        writer.write(name, cast)
        if name in copies:
            writer.write(copies[name], cast)


def _natural(spec: tuple) -> list:
    """Sorts layer 2 before layer 10."""
    return [(int(s), "") if s.isdigit() else (-1, s) for s in re.split(r"(\d+)", spec[0])]


def shard_size(text: str) -> int:
    """Bytes of "5GB", "500MB", "2GiB" or a number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    scale = UNITS.get(match[2].upper()) if match else None
    if scale is None or float(match[1]) * scale < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 5GB, 500MB or 2GiB")
    return int(float(match[1]) * scale)


def main(argv: list[str] | None = None) -> int:
    parser = command_line.Parser(prog="convert.to_hf", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--source", required=True, metavar="DIR", help="native checkpoint")
    add("--target", required=True, metavar="DIR", help="Hugging Face folder to write")
    add("--part", choices=("llm", "compressor"), help="that part alone, as a plain Qwen3 or Qwen3-VL")
    add("--dtype", default="source", choices=tuple(CASTS))
    add(
        "--max-shard-size",
        dest="max_shard_bytes",
        type=shard_size,
        default=SHARD_BYTES,
        metavar="SIZE",
        help="of a safetensors file (5GB)",
    )
    add("--dry-run", action="store_true", help="print what would be written, and write nothing")
    folders.add_overwrite(parser)
    add_commit(parser)
    args = vars(parser.parse_args(argv))

    def command() -> int:
        args["source"] = paths.path("the source", args["source"])
        if args.pop("dry_run"):
            print(_dry_run(**args))
            return 0
        convert(**args)
        print(f"wrote {args['target']}")
        return 0

    return command_line.run_on_cpu(parser.prog, command)


def _dry_run(source, target, part, dtype, max_shard_bytes, overwrite, commit) -> str:
    place = paths.absolute(paths.path("the target", target))
    folders.check_apart(place, source)
    folders.check_replaceable(place, overwrite)
    planned = plan_export(source, part, dtype)
    kinds = ", ".join(sorted({DTYPES[dtype].name for _, dtype, _ in planned.specs}))
    files = max(1, math.ceil(planned.nbytes / max_shard_bytes))
    return (
        f"{target}: {len(planned.specs)} tensors ({kinds}), {progress.size(planned.nbytes)} to write in "
        f"about {count(files, 'file')}; nothing is written (--dry-run)"
    )


if __name__ == "__main__":
    memory.reuse()
    sys.exit(main())
