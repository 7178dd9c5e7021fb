"""Compares a native checkpoint with Hugging Face files, tensor by tensor.

    python -m convert.verify --native=DIR --hf=DIR [--base=DIR]

Exit status 0 only when all tensors are equal: byte for byte, or after the cast that the conversion was
asked for. The relevance direction is compared when the base model is given.
"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from convert import hf_config, hf_export, mapping, source, to_hf
from convert.safetensors_io import Reader
from tempo_jax import checkpoint, cli_options


@dataclasses.dataclass
class Report:
    """`differing` holds one phrase per difference."""

    identical: int = 0
    cast: int = 0
    differing: list[str] = dataclasses.field(default_factory=list)

    @property
    def equal(self) -> bool:
        return not self.differing


def verify(native: str | os.PathLike, hf: str | os.PathLike, base: str | os.PathLike | None = None) -> Report:
    """Compares; one stacked array and one HF tensor are in memory at a time. TempoError: unreadable."""
    from convert import native_io
    from tempo_jax import progress

    model = checkpoint.read_model_json(native)
    found = to_hf.plan(model, checkpoint.param_shapes(native))
    report = Report()
    with Reader(hf) as reader, progress.reporter() as show:
        found = mapping.tensors(model.kind, model.config, bare=mapping.is_bare(model.kind, reader.infos))
        tied = mapping.tied_heads(model.kind, model.config, found)
        _compare_names(report, reader, found, tied)
        arrays = native_io.stored_arrays(native, [tensor.native for tensor in found])
        for done, tensor in enumerate(found, 1):
            _compare(report, reader, tensor, next(arrays))
            show("comparing", done, len(found))
        for head, embedding in tied.items():
            if head in reader.infos and embedding in reader.infos:
                same = source.equal_bytes(reader, head, embedding)
                _count(report, head, f"not equal to {embedding}", identical=same, equal=same)
    if not hf_export.describes(model.kind, model.config, hf_config.read_json(Path(hf))):
        report.differing.append("config.json: another architecture than model.json's")
    if base is not None and model.kind == "tempo":
        with source.Source("tempo", Path(hf), Path(base)) as opened:
            theirs, (ours,) = opened.direction(), native_io.stored_arrays(native, [mapping.DIRECTION])
            same = np.array_equal(theirs, ours)
            _count(report, mapping.DIRECTION, _distance(ours, theirs), identical=same, equal=same)
    return report


def _compare_names(report: Report, reader: Reader, found: list[mapping.Tensor], tied: dict) -> None:
    expected = {name for tensor in found for name in tensor.hf}
    have = reader.infos.keys()
    report.differing += [f"{name}: missing in the Hugging Face files" for name in sorted(expected - have)]
    extra = sorted(have - expected - tied.keys())
    report.differing += [f"{name}: missing in the native checkpoint" for name in extra]


def _compare(report: Report, reader: Reader, tensor: mapping.Tensor, array: np.ndarray) -> None:
    for i, name in enumerate(tensor.hf):
        info = reader.infos.get(name)
        if info is None:
            continue
        if info.shape != tensor.hf_shape or info.dtype not in source.FLOATS:
            report.differing.append(
                f"{name}: {info.dtype} {list(info.shape)}, native {list(tensor.hf_shape)}"
            )
            continue
        theirs = mapping.to_native(tensor.transform, reader.read(name))
        ours = array[i] if tensor.stacked else array
        equal = _same_bits(theirs.astype(ours.dtype, copy=False), ours)
        # Stacks of mixed dtypes are held in a wider one: as good as identical, nothing is lost.
        lossless = equal and _same_bits(ours.astype(theirs.dtype, copy=False), theirs)
        _count(report, name, "" if equal else _distance(ours, theirs), identical=lossless, equal=equal)


def _count(report: Report, name: str, what: str, *, identical: bool, equal: bool) -> None:
    if identical:
        report.identical += 1
    elif equal:
        report.cast += 1
    else:
        report.differing.append(f"{name}: {what}")


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    bits = np.dtype(f"u{a.dtype.itemsize}")
    return np.array_equal(a.view(bits), b.view(bits))


def _distance(ours: np.ndarray, theirs: Any) -> str:
    with np.errstate(invalid="ignore"):
        gap = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    worst = float(np.max(gap)) if gap.size else 0.0
    return f"largest difference {worst:.3g} ({np.count_nonzero(gap)} of {gap.size} values)"


def main(argv: list[str] | None = None) -> int:
    parser = cli_options.Parser(prog="convert.verify", description=__doc__.splitlines()[0])
    parser.add_argument("--native", required=True, metavar="DIR")
    parser.add_argument("--hf", required=True, metavar="DIR")
    parser.add_argument("--base", metavar="DIR", help="base model, to check the relevance direction too")
    args = parser.parse_args(argv)

    def command() -> int:
        report = verify(args.native, args.hf, args.base)
        for line in report.differing:
            print(f"differs: {line}")
        print(
            f"{report.identical} tensors byte-identical, {report.cast} equal after the cast, "
            f"{len(report.differing)} differences"
        )
        if args.base is None and checkpoint.read_model_json(args.native).kind == "tempo":
            print("not compared: the relevance direction, which is the base model's; give --base to check it")
        return 0 if report.equal else 1

    return cli_options.run_on_cpu(parser.prog, command)


if __name__ == "__main__":
    sys.exit(main())
