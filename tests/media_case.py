"""What a media file for tests is: how it is made, and what a player shows of it.

The truth comes from how the file is made, never from what reads it.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tempo_jax.video import containers
from tests.media_files import TURNS, Picture, Sound, decoded, paint, read_number, turned, write

CONSTANT, VARYING = False, True
LOST = "uneven|lost|missing|gap"
UNEVEN = "uneven"
SOUND = "sound|start"
SQUARE = "square|stretch"


@dataclasses.dataclass(frozen=True)
class Case:
    """A file and what a player shows.

    Picture i shows `numbers[i]` at `seconds[i]` on the player's clock; `size` is (height, width) as shown.
    `varying`: whether the frame rate varies, so that samples are spread in time. `warning`: what one warning
    must match; `may`: what others may match; any other is false. `plain`: the stream in which plain PyAV sees
    the same pictures, None where it does not; `clock`: whether its times are the player's. `turn`: the
    display matrix. `slack`: seconds that the truth's own start is unsure by.
    """

    name: str
    make: Callable[[Path], None]
    seconds: np.ndarray
    numbers: np.ndarray
    size: tuple[int, int] = (128, 256)
    varying: bool = CONSTANT
    warning: str | None = None
    may: str | None = None
    plain: int | None = 0
    clock: bool = True
    turn: tuple[int, int, int, int] = TURNS["upright"]
    slack: float = 0.0

    def tolerance(self) -> np.ndarray:
        """Half of each picture's local interval."""
        if len(self.seconds) < 2:
            return np.full(len(self.seconds), 0.02 + self.slack)
        gaps = np.diff(self.seconds)
        around = np.maximum(np.append(gaps, gaps[-1]), np.insert(gaps, 0, gaps[0]))
        return around / 2 + self.slack


DECODING_TIMES = (".avi", ".h264", ".hevc", ".m2v", ".m4v", ".nut")

CASES: dict[str, Case] = {}


def add(case: Case) -> None:
    assert case.name not in CASES, case.name
    CASES[case.name] = case


def row(
    name: str,
    *tracks: Picture | Sound,
    shown: int = 0,
    after: Callable[[Path], None] | None = None,
    seconds: np.ndarray | None = None,
    numbers: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
    muxing: dict | None = None,
    **truth,
) -> None:
    """A file written by `write(path, tracks, **muxing)`, then changed by `after`; track `shown` is seen."""
    picture = tracks[shown]
    if seconds is None:
        begin = min(t.seconds[0] if isinstance(t, Picture) else t.first for t in tracks)
        seconds = picture.seconds - begin
    if numbers is None:
        numbers = np.arange(len(seconds)) if picture.numbers is None else np.array(picture.numbers)

    def make(path: Path) -> None:
        write(path, tracks, **(muxing or {}))
        if after:
            after(path)

    videos = [t for t in tracks if isinstance(t, Picture)]
    # These store no times, or decoding times only, and FFmpeg's are late by the decoder's delay.
    clock = Path(name).suffix not in DECODING_TIMES
    truth = {"clock": clock, "plain": videos.index(picture), "turn": picture.turn, **truth}
    add(Case(name, make, seconds, numbers, size or picture.size, **truth))


def film(**changes) -> Picture:
    return Picture(**changes)


def animation(
    name: str,
    hundredths: list[int],
    *,
    after=None,
    varying=CONSTANT,
    warning=None,
    plain=0,
    written=None,
    before=False,
    **saving,
) -> None:
    """Made by Pillow: each picture is shown for so many hundredths of a second.

    `written`: what the file says instead. `before`: another picture stands first, for viewers that know no
    animation.
    """
    ends = np.cumsum(hundredths)

    def make(path: Path) -> None:
        pictures = [Image.fromarray(paint(k)) for k in range(len(hundredths))]
        pause = [10 * h for h in written or hundredths]
        if before:
            pictures.insert(0, Image.fromarray(paint(7777)))
            saving["default_image"] = True
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=pause, **saving)
        if after:
            after(path)

    numbers, seconds = np.arange(len(hundredths)), (ends - hundredths) / 100
    add(Case(name, make, seconds, numbers, varying=varying, warning=warning, plain=plain))


def _check_shape(case: Case, path: Path) -> list[str]:
    """Whether the container's pixels have the shape that the truth says."""
    with av.open(str(path), **containers.LENIENT_TAGS) as container:
        stream = container.streams.video[case.plain]
        pixel = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
        aspect = stream.width * pixel / stream.height
    height, width = case.size if case.turn[0] else case.size[::-1]
    return [] if abs(aspect * height / width - 1) < 0.01 else [f"{aspect:.3f} times as wide as high"]


def check(case: Case, path: Path) -> list[str]:
    """What plain PyAV sees other than the truth says."""
    if case.plain is None:
        return []
    if faults := _check_shape(case, path):
        return faults
    pictures, times = decoded(path, case.plain)
    numbers = [read_number(turned(p, case.turn)) for p in pictures]
    if numbers != case.numbers.tolist():
        return [f"{len(numbers)} of {len(case.numbers)} pictures: {numbers[:6]} ... {numbers[-4:]}"]
    if not case.clock:
        return []
    if None in times:
        return ["no times"]
    off = np.abs(np.array(times) - case.seconds) - case.tolerance()
    at = int(off.argmax())
    return [f"picture {at} at {times[at]:.3f}, not {case.seconds[at]:.3f}"] if off[at] > 1e-6 else []
