"""Parquet, as Hugging Face's data sets are stored: a row is a record, with the bytes of its images in it."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from tempo_jax.data.readers.record import Entry
from tempo_jax.errors import TempoError

SUFFIXES = (".parquet",)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row yet to be read."""

    path: str
    group: int
    number: int

    def load(self) -> Any:
        """The row as an object; a row group is read at once and kept while its rows are asked for."""
        return _group(self.path, self.group).slice(self.number, 1).to_pylist()[0]


@functools.lru_cache(maxsize=1)
def _group(path: str, group: int) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(path).read_row_group(group)


def read(path: Path) -> list[Entry]:
    """An entry a row. TempoError where the file is none."""
    from pyarrow import ArrowException, parquet

    try:
        about = parquet.ParquetFile(path).metadata
        counts = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
    except (OSError, ArrowException) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise TempoError(f"{path} is no whole parquet file ({reason}): get a complete copy.") from error
    rows = ((group, number) for group, count in enumerate(counts) for number in range(count))
    return [Entry(f"row {i}", Row(str(path), *row)) for i, row in enumerate(rows, start=1)]
