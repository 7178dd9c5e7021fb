"""Opens and reads damaged media files, and counts whether the damage was told.

    python benchmarks/damaged_files.py                # 400 seeded damages of 20 files in 10 containers
    python benchmarks/damaged_files.py --seeds 100    # so many of each file
    python benchmarks/damaged_files.py --case gif:even.gif:7 --keep build/damaged

Every file is made anew and its pictures show their numbers (tests/media_cases.py). A damage cuts it off, or
zeroes, flips, overwrites, removes or doubles a part of it, at its beginning, in the middle or at the end. It
is read whole in a child process with a time limit, and falls into the first of these that holds:

    crash      a traceback, a message that is no sentence, or the process died
    hang       no end within --limit seconds
    refused    one sentence
    warned     at least one warning
    shorter    silently: over 2 % of the pictures or of the duration are missing
    longer     silently: over 2 % more pictures or a duration over 2 % longer
    pixels     silently: a picture differs visibly from the one of its number
    unharmed   all pictures as in the undamaged file

Exit status 1 where anything crashed or hung, or is silently shorter.
"""

import argparse
import collections
import dataclasses
import itertools
import multiprocessing
import os
import sys
import tempfile
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

FILES = {
    "mp4": ("h264_b_frames.mp4", "fragmented.mp4"),
    "mov": ("hevc_10_bit.mov", "mjpeg.mov"),
    "mkv": ("h264_b_frames.mkv", "hevc_open_gop.mkv"),
    "webm": ("vp8.webm", "vp9.webm"),
    "avi": ("xvid_b_frames.avi", "h264_b_frames.avi"),
    "ts": ("h264_b_frames.ts", "mpeg2.ts"),
    "flv": ("h264_b_frames.flv", "sorenson.flv"),
    "ogg": ("vp8.ogv", "theora.ogv"),
    "mpg": ("mpeg2_b_frames.mpg", "mpeg1.mpg"),
    "gif": ("even.gif", "made_by_ffmpeg.gif"),
}
KINDS = ("cut off", "zeroed", "flipped", "overwritten", "removed", "doubled")
PLACES = ("beginning", "middle", "end")
VERDICTS = ("unharmed", "warned", "refused", "shorter", "longer", "pixels", "crash", "hang")
BAD = ("shorter", "longer", "pixels", "crash", "hang")

SHORT = 0.02
VISIBLE_LEVELS = 24  # a pixel further off than this is seen
VISIBLE_SHARE = 0.01  # and this many of them are a fault


def damage(data: bytes, rng: np.random.Generator, kind: str, place: str) -> bytes:
    """`data` with one damage of a kind somewhere in a place."""
    size, low, high = len(data), *{"beginning": (0, 0.1), "middle": (0.1, 0.9), "end": (0.9, 1)}[place]
    start = int(rng.integers(int(low * size), max(int(low * size) + 1, int(high * size))))
    # A few bytes as often as many.
    length = int(np.exp(rng.uniform(0, np.log(max(2, size // 20)))))
    part = data[start : start + length]
    if kind == "cut off":
        return data[: max(1, start)]
    if kind == "zeroed":
        part = bytes(len(part))
    elif kind == "overwritten":
        part = rng.bytes(len(part))
    elif kind == "removed":
        part = b""
    elif kind == "doubled":
        part += part
    else:
        flipped = bytearray(part)
        for _ in range(int(rng.integers(1, 9))):
            flipped[int(rng.integers(len(flipped)))] ^= 1 << int(rng.integers(8))
        part = bytes(flipped)
    return data[:start] + part + data[start + length :]


def damaged(data: bytes, name: str, seed: int) -> tuple[str, bytes]:
    """Damage number `seed` of a file, and what it is."""
    number = zlib.crc32(name.encode())
    rng = np.random.default_rng([number, seed])
    # 7 has no factor in common with 18: so many seeds take every kind in every place, starting anywhere.
    kind, place = list(itertools.product(KINDS, PLACES))[(number + 7 * seed) % (len(KINDS) * len(PLACES))]
    return f"{kind} at the {place}", damage(data, rng, kind, place)


def originals(folder: Path) -> dict[str, Path]:
    """All files of FILES by name."""
    from tests.media_cases import CASES

    records = {}
    for name in (n for names in FILES.values() for n in names):
        records[name] = REPO / "tests" / "golden" / "media" / name  # what only other tools can make
        if name in CASES:
            records[name] = folder / name
            CASES[name].make(records[name])
    return records


# --- in the child


@dataclasses.dataclass(frozen=True)
class Seen:
    """The frames read from a file."""

    pictures: np.ndarray  # uint8 [T, H, W, 3]
    duration: float
    warnings: list[str]


def _read(path: Path) -> Seen:
    from tempo_jax.video import open_video

    total = open_video(path, max_frames=1).total_frames
    source = open_video(path, fps=1000.0, max_frames=total, sampling="index")
    pictures = np.concatenate(list(source.chunks(32)))
    return Seen(pictures, source.duration_seconds, list(source.warnings))


def _same(picture: np.ndarray, original: np.ndarray) -> bool:
    if picture.shape != original.shape:
        return False
    off = np.abs(picture.astype(np.int16) - original).max(axis=2) > VISIBLE_LEVELS
    return bool(off.mean() <= VISIBLE_SHARE)


def _sentence(text: str) -> bool:
    return "\n" not in text and text.endswith((".", "?"))


def _judge(path: Path, original: Seen) -> tuple[str, str]:
    """(verdict, what was said or seen)."""
    from tempo_jax.errors import TempoError
    from tests.media_files import read_number

    try:
        seen = _read(path)
    except TempoError as error:
        return ("refused" if _sentence(str(error)) else "crash"), str(error)
    except Exception:
        return "crash", traceback.format_exc()
    if seen.warnings:
        return ("warned" if all(map(_sentence, seen.warnings)) else "crash"), " ".join(seen.warnings)
    total, whole = len(seen.pictures), len(original.pictures)
    lengths = f"{total} of {whole} pictures, {seen.duration:.2f} of {original.duration:.2f} s"
    if min(total / whole, seen.duration / original.duration) < 1 - SHORT:
        return "shorter", lengths
    if max(total / whole, seen.duration / original.duration) > 1 + SHORT:
        return "longer", lengths
    numbers = [read_number(picture) for picture in seen.pictures]
    known = {read_number(picture): picture for picture in original.pictures}
    faults = [k for k, n in enumerate(numbers) if n not in known or not _same(seen.pictures[k], known[n])]
    faults += [k for k in range(1, total) if numbers[k] <= numbers[k - 1]]
    if faults:
        return "pixels", f"{len(set(faults))} pictures, the first is {min(faults)}"
    return "unharmed", lengths


def _work(pipe) -> None:
    """Judges (damaged, undamaged) paths as they come; what FFmpeg prints goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    known: dict[Path, Seen] = {}
    while True:
        path, original = pipe.recv()
        if original not in known:
            known = {original: _read(original)}
        pipe.send(_judge(path, known[original]))


# --- in the parent


class Reader:
    """A child that reads files; a new one after each that died or did not end in time."""

    def __init__(self, limit: float):
        self._limit, self._process = limit, None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def __call__(self, path: Path, original: Path) -> tuple[str, str]:
        """The verdict on one file, and what was said or seen."""
        limit = self._limit
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
            limit += 30  # for what it imports
        try:
            self._pipe.send((path, original))
            if self._pipe.poll(limit):
                return self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            verdict = "crash", f"the process ended with status {self._process.exitcode}"
        else:
            verdict = "hang", f"no end within {limit:.0f} s"
        self._stop()
        return verdict


def judged(
    seeds: range, limit: float, folder: Path, only: str = ""
) -> Iterator[tuple[str, str, str, str, str]]:
    """(container, case, what was done, verdict, what was said or seen) of every damage.

    `only`: one case, as printed.
    """
    paths = originals(folder)
    with Reader(limit) as reader:
        for container, names in FILES.items():
            for name in names:
                data = paths[name].read_bytes()
                for seed in seeds:
                    case = f"{container}:{name}:{seed}"
                    if only not in ("", case):
                        continue
                    done, changed = damaged(data, name, seed)
                    path = folder / f"damaged_{seed}_{name}"
                    path.write_bytes(changed)
                    yield container, case, done, *reader(path, paths[name])
                    if not only:
                        path.unlink()


def table(counts: dict[str, collections.Counter]) -> str:
    """Verdicts by container, in Markdown."""
    total: collections.Counter = sum(counts.values(), collections.Counter())
    rows = [["container", *VERDICTS], ["---"] + ["--:"] * len(VERDICTS)]
    for container, counter in [*counts.items(), ("all", total)]:
        rows.append([container, *(str(counter[v]) for v in VERDICTS)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="damages of each of the 20 files")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds that one file may take")
    parser.add_argument("--case", default="", help="one damage, as printed")
    parser.add_argument("--keep", type=Path, help="folder for the files, for --case")
    args = parser.parse_args()
    seeds = range(args.seeds)
    if args.case:
        seeds = range(int(args.case.rsplit(":", 1)[1]), int(args.case.rsplit(":", 1)[1]) + 1)
    counts: dict[str, collections.Counter] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for container, case, done, verdict, seen in judged(seeds, args.limit, folder, args.case):
            counts.setdefault(container, collections.Counter())[verdict] += 1
            if verdict in BAD or args.case:
                said = seen if args.case else seen.strip().splitlines()[-1]
                print(f"{verdict}: {case} ({done}): {said}", flush=True)
    if not counts:
        sys.exit(f"There is no case {args.case}: give one as it was printed, such as gif:even.gif:7.")
    print(table(counts))
    return int(any(counter[v] for counter in counts.values() for v in ("shorter", "crash", "hang")))


if __name__ == "__main__":
    sys.exit(main())
