"""H.264 videos made on the spot, for tests, benchmarks and trying things out.

    python -m tempo_jax.video.synthetic hour.mp4 --seconds 3600 --fps 5 --width 128 --height 96

A clock runs in the corner (minutes and seconds of video time), three shapes move over a background
whose color changes from scene to scene, all fixed by the seed. `encode` writes any generated frames. Memory
does not grow with length.
"""

import argparse
import dataclasses
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np


def encode(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: float,
    *,
    gop: int = 50,
    preset: str = "veryfast",
    options: Mapping[str, str] | None = None,
    rotation: int = 0,
    faststart: bool = False,
    container: str | None = None,
) -> None:
    """Encodes frames with libx264, one at a time.

    Args:
      path: file to write; its suffix chooses the container format.
      frames: uint8 [height, width, 3], all of one size.
      fps: frames per second.
      gop: maximum number of frames between keyframes.
      preset: preset of libx264.
      options: further options of libx264.
      rotation: display rotation in degrees, counterclockwise.
      faststart: writes the index first, so that a truncated file can be read.
      container: container format, in place of the suffix's.
    """
    import av

    rate, stream = Fraction(fps).limit_denominator(1001), None
    flags = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", format=container, options=flags) as output:
        for index, pixels in enumerate(frames):
            if stream is None:
                stream = output.add_stream("libx264", rate=rate)
                stream.height, stream.width = pixels.shape[:2]
                # 4:2:0 halves both sides, so odd ones need 4:4:4.
                stream.pix_fmt = "yuv444p" if pixels.shape[0] % 2 or pixels.shape[1] % 2 else "yuv420p"
                stream.options = {"preset": preset, "g": str(gop), **(options or {})}
                if rotation:
                    stream.set_display_rotation(rotation)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            output.mux(stream.encode(frame))
        if stream is not None:
            output.mux(stream.encode(None))


SCENE_SECONDS = 10
# 3x5 dots per character, a row per octal digit.
_FONT = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711",
    "5": "74717", "6": "74757", "7": "71122", "8": "75757", "9": "75717", ":": "02020",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SyntheticVideo:
    """A generated video. `noise`: standard deviation of the grain, in levels; it makes encoding harder."""

    seconds: float = 60.0
    fps: int = 5
    height: int = 96
    width: int = 128
    seed: int = 0
    noise: float = 0.0

    @property
    def num_frames(self) -> int:
        return max(1, round(self.seconds * self.fps))


Clip = SyntheticVideo  # the name of earlier releases


@lru_cache(maxsize=1024)
def _glyph(character: str, scale: int) -> np.ndarray:
    """bool [5 scale, 3 scale]."""
    dots = np.array([[int(row) >> bit & 1 for bit in (2, 1, 0)] for row in _FONT[character]], bool)
    return np.kron(dots, np.ones((scale, scale), bool))


@lru_cache(maxsize=16)
def _scene(seed: int, scene: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Background color [3], three shape colors [3, 3], their paths [3, 4] (phases and speeds)."""
    rng = np.random.default_rng((seed, scene))
    background = rng.integers(30, 130, 3)
    return background, rng.integers(130, 256, (3, 3)), rng.uniform(0.2, 1.0, (3, 4))


@lru_cache(maxsize=4)
def _grain(height: int, width: int, noise: float) -> np.ndarray:
    """int16 [2 height, 2 width, 3]; each frame shows another window of it."""
    rng = np.random.default_rng(7)
    return np.round(rng.normal(0, noise, (2 * height, 2 * width, 3))).astype(np.int16)


def _draw_clock(frame: np.ndarray, seconds: int) -> None:
    scale = max(1, frame.shape[1] // 64)
    x = y = 2 * scale
    for character in f"{seconds // 60:02d}:{seconds % 60:02d}":
        glyph = _glyph(character, scale)
        patch = frame[y : y + glyph.shape[0], x : x + glyph.shape[1]]
        patch[glyph[: patch.shape[0], : patch.shape[1]]] = 255
        x += 4 * scale


def render(clip: SyntheticVideo, index: int) -> np.ndarray:
    """Frame `index` of a clip: uint8 [height, width, 3]."""
    height, width = clip.height, clip.width
    time = index / clip.fps
    background, colors, paths = _scene(clip.seed, int(time // SCENE_SECONDS))
    frame = np.empty((height, width, 3), np.uint8)
    frame[:] = background
    size = max(2, min(height, width) // 5)
    for shape, (color, path) in enumerate(zip(colors, paths)):
        x = int((0.5 + 0.5 * np.sin(path[0] * time + 6 * path[2])) * (width - size))
        y = int((0.5 + 0.5 * np.cos(path[1] * time + 6 * path[3])) * (height - size))
        # A square, a lying bar and a standing bar.
        high, wide = ((size, size), (size // 2, size), (size, size // 2))[shape]
        frame[y : y + high, x : x + wide] = color
    if clip.noise:
        grain = _grain(height, width, clip.noise)
        rng = np.random.default_rng((clip.seed, index))
        y, x = int(rng.integers(height)), int(rng.integers(width))
        frame = np.clip(frame + grain[y : y + height, x : x + width], 0, 255).astype(np.uint8)
    _draw_clock(frame, int(time))
    return frame


def write_video(
    path: str | Path,
    clip: SyntheticVideo | None = None,
    *,
    gop: int = 50,
    b_frames: int = 2,
    rotation: int = 0,
    faststart: bool = False,
    preset: str = "veryfast",
    container: str | None = None,
) -> SyntheticVideo:
    """Encode a clip with libx264; the suffix or `container` chooses the format.

    `gop`: frames between keyframes. `rotation`: display rotation mark in degrees, counter-clockwise.
    `faststart`: index at the front, so that a truncated file can still be read. Returns the clip.
    """
    clip = clip or SyntheticVideo()
    # Keyframes exactly where `gop` says, so that tests can count on them.
    fixed = {"keyint_min": str(gop), "sc_threshold": "0", "bf": str(b_frames)}
    encode(
        path,
        (render(clip, index) for index in range(clip.num_frames)),
        clip.fps,
        gop=gop,
        preset=preset,
        options=fixed,
        rotation=rotation,
        faststart=faststart,
        container=container,
    )
    return clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path")
    defaults = SyntheticVideo()
    parser.add_argument("--seconds", type=float, default=defaults.seconds)
    parser.add_argument("--fps", type=int, default=defaults.fps)
    parser.add_argument("--height", type=int, default=defaults.height)
    parser.add_argument("--width", type=int, default=defaults.width)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--noise", type=float, default=defaults.noise)
    parser.add_argument("--gop", type=int, default=50)
    arguments = vars(parser.parse_args())
    path, gop = arguments.pop("path"), arguments.pop("gop")
    clip = write_video(path, SyntheticVideo(**arguments), gop=gop)
    print(f"{path}: {clip.num_frames} frames, {clip.num_frames / clip.fps:.1f} s")


if __name__ == "__main__":
    main()
