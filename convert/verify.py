"""Compares a native checkpoint with Hugging Face files: bytes, configuration, tensors and logits.

    python -m convert.verify --native=DIR --hf=DIR [--base=DIR] [--adapter=DIR] [--logits]

The files against their digests; model.json against config.json as transformers itself parses it; every
tensor, byte for byte or after the cast that the conversion was asked for; with --logits both models on the
same random tokens, image and video. Exit status 1 where anything differs. The relevance direction is
compared when the base model is given.
"""

import dataclasses
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from convert import hf_config, hf_export, hub, mapping, source, their_config, to_hf
from convert.source import AnyReader
from tempo_jax import checkpoint
from tempo_jax.errors import TempoError
from tempo_jax.utils import command_line, digests, progress


@dataclasses.dataclass
class Report:
    """The result of a comparison: `differing` has a phrase per difference, `notes` further remarks."""

    identical: int = 0
    cast: int = 0
    differing: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    digests: bool = False  # whether there were any to check the files by

    @property
    def equal(self) -> bool:
        return not self.differing


def verify(
    native: str | os.PathLike,
    hf: str | os.PathLike,
    base: str | os.PathLike | None = None,
    adapter: str | os.PathLike | None = None,
) -> Report:
    """Compares a native checkpoint with Hugging Face files, one stacked array at a time.

    Args:
      native: folder of the native checkpoint.
      hf: folder of the Hugging Face checkpoint.
      base: folder of the Qwen3-VL of a Tempo, to compare the relevance direction.
      adapter: folder of a LoRA that was merged.

    Returns:
      Counts of identical and cast tensors, and all differences.

    Raises:
      TempoError: A checkpoint cannot be read.
    """
    from convert import native_io

    model = checkpoint.read_model_json(native)
    tensors = to_hf.plan(model, checkpoint.param_shapes(native))
    report = Report(digests=digests.check(native, whole=True))
    _compare_configs(report, model, hf, base)
    reader = source.open_folder(Path(hf), None if adapter is None else Path(adapter))
    with reader, progress.reporter(in_bytes=True) as show:
        tensors = mapping.tensors(model.kind, model.config, bare=mapping.is_bare(model.kind, reader.infos))
        tied = mapping.tied_heads(model.kind, model.config, tensors)
        _compare_names(report, reader, tensors, tied)
        arrays = native_io.stored_arrays(native, [tensor.native for tensor in tensors])
        total, done = sum(math.prod(tensor.shape) for tensor in tensors), 0
        for tensor in tensors:
            _compare(report, reader, tensor, next(arrays))
            done += math.prod(tensor.shape)
            show("comparing", done, total)
        for head, embedding in tied.items():
            if head in reader.infos and embedding in reader.infos:
                same = source.equal_bytes(reader, head, embedding)
                _count(report, head, f"not equal to {embedding}", identical=same, equal=same)
    if base is not None and model.kind == "tempo":
        with source.Source("tempo", Path(hf), Path(base)) as opened:
            source_direction, (native_direction,) = (
                opened.direction(),
                native_io.stored_arrays(native, [mapping.DIRECTION]),
            )
            same = np.array_equal(source_direction, native_direction)
            _count(
                report,
                mapping.DIRECTION,
                _distance(native_direction, source_direction),
                identical=same,
                equal=same,
            )
    return report


def _compare_configs(report: Report, model: checkpoint.CheckpointInfo, hf: Any, base: Any) -> None:
    """model.json and what transformers makes of config.json; notes where its generation is another."""
    values = hf_config.read_json(Path(hf))
    if not hf_export.describes(model.kind, model.config, values):
        report.differing.append("config.json: another architecture than model.json's")
    differing, notes = their_config.split(model.kind, model.config, hf, base)
    report.differing += [f"config.json: {text}" for text in differing]
    report.notes += [f"config.json: {text}" for text in notes]


def _compare_names(report: Report, reader: AnyReader, tensors: list[mapping.TensorSpec], tied: dict) -> None:
    expected = {name for tensor in tensors for name in tensor.hf}
    have = reader.infos.keys()
    report.differing += [f"{name}: missing in the Hugging Face files" for name in sorted(expected - have)]
    extra = sorted(have - expected - tied.keys())
    report.differing += [f"{name}: missing in the native checkpoint" for name in extra]


def _compare(report: Report, reader: AnyReader, tensor: mapping.TensorSpec, array: np.ndarray) -> None:
    for i, name in enumerate(tensor.hf):
        info = reader.infos.get(name)
        if info is None:
            continue
        if info.shape != tensor.hf_shape or info.dtype not in source.FLOATS:
            report.differing.append(
                f"{name}: {info.dtype} {list(info.shape)}, native {list(tensor.hf_shape)}"
            )
            continue
        source_array = mapping.to_native(tensor.transform, reader.read(name))
        native_array = array[i] if tensor.stacked else array
        equal = _same_bits(source_array.astype(native_array.dtype, copy=False), native_array)
        # Stacks of mixed dtypes are held in a wider one: as good as identical, nothing is lost.
        lossless = equal and _same_bits(native_array.astype(source_array.dtype, copy=False), source_array)
        _count(
            report,
            name,
            "" if equal else _distance(native_array, source_array),
            identical=lossless,
            equal=equal,
        )


def _count(report: Report, name: str, difference: str, *, identical: bool, equal: bool) -> None:
    if identical:
        report.identical += 1
    elif equal:
        report.cast += 1
    else:
        report.differing.append(f"{name}: {difference}")


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    bits = np.dtype(f"u{a.dtype.itemsize}")
    return np.array_equal(a.view(bits), b.view(bits))


def _distance(native: np.ndarray, source_array: Any) -> str:
    with np.errstate(invalid="ignore"):
        gap = np.abs(native.astype(np.float64) - source_array.astype(np.float64))
    worst = float(np.max(gap)) if gap.size else 0.0
    return f"largest difference {worst:.3g} ({np.count_nonzero(gap)} of {gap.size} values)"


MOST_SHOWN = 20  # differences, of which a wrong model has one for each tensor


def main(argv: list[str] | None = None) -> int:
    parser = command_line.Parser(prog="convert.verify", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--native", required=True, metavar="DIR")
    add("--hf", required=True, metavar="DIR", help="Hugging Face folder, or its id")
    add("--base", metavar="DIR", help="base model, to check the relevance direction too")
    add("--adapter", metavar="DIR", help="the adapter that was merged")
    add("--logits", action="store_true", help="run both models too (needs PyTorch, the test extra)")
    add("--seed", type=int, default=0, metavar="N", help="of the random inputs of --logits (0)")
    args = parser.parse_args(argv)

    def command() -> int:
        hf, base, adapter = (
            hub.locate(f"the {what}", path).folder if path else None
            for what, path in (("hf", args.hf), ("base", args.base), ("adapter", args.adapter))
        )
        report = verify(args.native, hf, base, adapter)
        for line in report.differing[:MOST_SHOWN]:
            print(f"differs: {line}")
        if len(report.differing) > MOST_SHOWN:
            print(f"differs: {len(report.differing) - MOST_SHOWN} more")
        for line in report.notes:
            print(f"note: {line}")
        print(
            f"{report.identical} tensors byte-identical, {report.cast} equal after the cast, "
            f"{len(report.differing)} differences; "
            + ("the files are what was written" if report.digests else "no digests to check the files by")
        )
        if args.base is None and checkpoint.read_model_json(args.native).kind == "tempo":
            print("not compared: the relevance direction, which is the base model's; give --base to check it")
        return 0 if report.equal & _logits(args, hf, base) else 1

    return command_line.run_on_cpu(parser.prog, command)


def _logits(args: Any, hf: Path, base: Path | None) -> bool:
    """Prints the comparison of logits where it is asked for; whether they are equal."""
    if not args.logits:
        return True
    if args.adapter:
        raise TempoError("--logits compares with a whole model: merge the adapter with PEFT first")
    from convert import logits

    found = logits.compare(args.native, hf, base, args.seed)
    for comparison in found:
        print("\n".join(comparison.lines()))
    equal = all(comparison.equal for comparison in found)
    print(f"logits {'agree' if equal else 'differ'} (the bound is {logits.TOLERANCE:g})")
    return equal


if __name__ == "__main__":
    sys.exit(main())
