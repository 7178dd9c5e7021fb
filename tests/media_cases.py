"""The table of small media files.

`python -m tests.media_cases FOLDER` writes all of them there; with `--check` it also compares their truths
with what plain PyAV decodes.
"""

import argparse
from pathlib import Path

from tests import media_clocks, media_rates, media_shapes
from tests.media_case import CASES, Case, check

__all__ = ["CASES", "Case", "check"]

for _add_rows in (
    media_rates.constant,
    media_rates.long,
    media_rates.variable,
    media_clocks.clocks,
    media_clocks.packets,
    media_shapes.shapes,
    media_shapes.streams,
    media_shapes.animations,
):
    _add_rows()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="a part of the names")
    parser.add_argument("--check", action="store_true", help="compare the truths with plain PyAV")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for case in CASES.values():
        if arguments.only in case.name:
            path = arguments.folder / case.name
            case.make(path)
            faults = check(case, path) if arguments.check else []
            print(f"{case.name}: {path.stat().st_size / 1024:.0f} KiB", *faults)


if __name__ == "__main__":
    main()
