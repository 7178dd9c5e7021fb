"""Native checkpoint -> Hugging Face safetensors in the published layout.

    python -m convert.to_hf --source=DIR --target=DIR

Tensors come out byte-identical to those that `from_hf` read. Every tensor's place in the files is
known beforehand, so that one stacked array at a time is read and its layers written where they belong.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from convert import hf_export, mapping
from convert.safetensors_io import DTYPES, NAMES, Writer
from tempo_jax import cli_options, folders
from tempo_jax.errors import TempoError

SHARD_BYTES = 5_000_000_000
CASTS = {"bfloat16": "BF16", "float32": "F32", "source": None}


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    dtype: str = "source",
    max_shard_bytes: int = SHARD_BYTES,
    overwrite: bool | str = False,
) -> None:
    """Writes config.json, safetensors (with an index when sharded) and tokenizer files to `target`.

    `dtype` "source": each tensor in the dtype it is stored in, or came in. Raises TempoError.
    """
    from convert import native_io
    from tempo_jax import checkpoint, progress

    model = checkpoint.read_model_json(source)
    stored = checkpoint.param_shapes(source)
    found = plan(model, stored)
    dtypes = _dtypes(model.origin, found, stored, dtype)
    copies = _copies(model, found)
    specs = [(n, d, t.hf_shape) for t in found for n, d in zip(t.hf, dtypes[t.native], strict=True)]
    by_name = {spec[0]: spec for spec in specs}
    specs += [(copy, *by_name[name][1:]) for name, copy in copies.items()]
    embedding = next(t for t in reversed(found) if t.native.endswith("embed/embedding"))
    config = hf_export.export(
        model.kind, model.config, model.origin, DTYPES[dtypes[embedding.native][0]].name
    )
    with folders.replacing(target, overwrite, keep=[source]) as folder, progress.reporter() as report:
        with Writer(folder, sorted(specs, key=_natural), max_shard_bytes) as writer:
            arrays = native_io.stored_arrays(source, [tensor.native for tensor in found])
            for done, tensor in enumerate(found, 1):
                _write(writer, tensor, dtypes[tensor.native], next(arrays), copies)
                report("exporting", done, len(found))
        tokenizer = Path(source) / "tokenizer"
        if tokenizer.is_dir():
            checkpoint.copy_tokenizer(tokenizer, folder)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def is_bare(origin: dict) -> bool:
    """Whether the files that a checkpoint came from were named without "model."; "prefixes" said so once."""
    return bool(origin.get("bare", "prefixes" in origin))


def plan(model: Any, stored: dict[str, Any]) -> list[mapping.Tensor]:
    """The tensors of a native checkpoint; a TempoError when its arrays are not those of its config."""
    expected = mapping.native_shapes(model.kind, model.config)
    wrong = [
        f"{path} is {list(stored[path].shape) if path in stored else 'missing'}, expected "
        f"{list(expected[path]) if path in expected else 'nothing'}"
        for path in sorted(expected.keys() | stored.keys())
        if path not in stored or path not in expected or tuple(stored[path].shape) != expected[path]
    ]
    if wrong:
        raise TempoError(f"the parameters do not fit model.json: {'; '.join(wrong)}")
    return mapping.tensors(model.kind, model.config, bare=is_bare(model.origin))


def _dtypes(origin: dict, found: list[mapping.Tensor], stored: dict, dtype: str) -> dict[str, list[str]]:
    """Native path -> dtype name of each HF tensor. Stacks made of mixed dtypes go back to those."""
    mixed = origin.get("mixed_dtypes", {})
    out = {}
    for t in found:
        own = CASTS[dtype] or NAMES[np.dtype(stored[t.native].dtype)]
        out[t.native] = mixed.get(t.native, [own] * len(t.hf)) if dtype == "source" else [own] * len(t.hf)
    return out


def _copies(model: Any, found: list[mapping.Tensor]) -> dict[str, str]:
    """Embedding -> the redundant head to store beside it, where the original files had one."""
    tied = mapping.tied_heads(model.kind, model.config, found)
    return {tied[head]: head for head in model.origin.get("tied_heads", []) if head in tied}


def _write(
    writer: Writer, tensor: mapping.Tensor, dtypes: list[str], array: np.ndarray, copies: dict
) -> None:
    for i, (name, dtype) in enumerate(zip(tensor.hf, dtypes, strict=True)):
        hf = mapping.to_hf(tensor.transform, array[i] if tensor.stacked else array, tensor.hf_shape)
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


def main(argv: list[str] | None = None) -> int:
    parser = cli_options.Parser(prog="convert.to_hf", description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, metavar="DIR", help="native checkpoint")
    parser.add_argument("--target", required=True, metavar="DIR", help="Hugging Face folder to write")
    parser.add_argument("--dtype", default="source", choices=tuple(CASTS))
    folders.add_overwrite(parser)
    args = parser.parse_args(argv)

    def command() -> int:
        convert(args.source, args.target, dtype=args.dtype, overwrite=args.overwrite)
        print(f"wrote {args.target}")
        return 0

    return cli_options.run_on_cpu(parser.prog, command)


if __name__ == "__main__":
    sys.exit(main())
