"""From a spec to pixels: one frame at a time, without the ones before it."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from tempo_jax.data.minireel.world import (
    ACTORS,
    CARD_SIZE,
    COLOURS,
    LETTERS,
    VISITOR_SIZE,
    Actor,
    Event,
    Spec,
)

_SUPERSAMPLING = 4
_INK = (16, 16, 16)
_EDGE = 0.045  # of the shape's size


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points, the first one up: the edge is straight from a tip to the notch beside it."""
    turn = np.mod(np.arctan2(x, -y), 2 * np.pi / 5)
    turn = np.minimum(turn, 2 * np.pi / 5 - turn)  # angle from the nearest tip, 0..36 degrees
    notch = 0.42 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    radius = np.hypot(x, y)
    along, across = radius * np.cos(turn), radius * np.sin(turn)
    return (along - 1) * notch[1] - across * (notch[0] - 1) < 0


# Inside of each shape for x, y in -1..1, y downwards.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: x**2 + y**2 < 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.86,
    "triangle": lambda x, y: (y < 0.86) & (2 * abs(x) < y + 1),
    "diamond": lambda x, y: 1.2 * abs(x) + abs(y) < 1,
    "star": _star,
    "heart": lambda x, y: (
        ((1.25 * x) ** 2 + (0.2 - 1.2 * y) ** 2 - 1) ** 3 < (1.25 * x) ** 2 * (0.2 - 1.2 * y) ** 3
    ),
    "cross": lambda x, y: np.minimum(abs(x), abs(y)) < 0.3,
    "moon": lambda x, y: (x**2 + y**2 < 1) & ((x - 0.45) ** 2 + y**2 > 0.62),
    "arrow": lambda x, y: ((x < 0.1) & (abs(y) < 0.28)) | ((x >= 0.1) & (abs(y) < 0.95 * (1 - x))),
    "card": lambda x, y: np.maximum(abs(x), abs(y)) < 1,
}

# Two dull tones, and where the second one is, for u (rightwards), v (downwards) in 0..1.
PLACES: dict[str, tuple[tuple, tuple, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "sea": ((24, 52, 96), (44, 84, 132), lambda u, v: np.mod(4 * v + 0.18 * np.sin(4 * np.pi * u), 1) < 0.4),
    "forest": ((28, 56, 30), (56, 44, 28), lambda u, v: np.mod(5 * u, 1) < 0.35),
    "desert": ((214, 190, 150), (176, 140, 96), lambda u, v: v > 0.55 + 0.12 * np.sin(2 * np.pi * u)),
    "city": ((92, 92, 96), (136, 132, 128), lambda u, v: (np.mod(4 * u, 1) < 0.5) & (np.mod(4 * v, 1) < 0.5)),
    "snow": (
        (232, 236, 240),
        (186, 198, 212),
        lambda u, v: np.hypot(np.mod(4 * u, 1) - 0.5, np.mod(4 * v, 1) - 0.5) < 0.25,
    ),
    "space": (
        (10, 8, 18),
        (170, 170, 180),
        lambda u, v: (
            np.hypot(np.mod(3 * u, 1) - 0.5, np.mod(3 * v + 0.5 * (np.mod(3 * u, 2) < 1), 1) - 0.5) < 0.09
        ),
    ),
}


def _grid(pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Centers of the supersampled pixels in 0..1: (rightwards [1, n], downwards [n, 1])."""
    points = (np.arange(pixels * _SUPERSAMPLING) + 0.5) / (pixels * _SUPERSAMPLING)
    return points[None, :], points[:, None]


def _coverage(inside: np.ndarray, pixels: int) -> np.ndarray:
    """float [pixels, pixels, 1], 0..1: how much of each pixel is inside."""
    fine = np.broadcast_to(inside, (pixels * _SUPERSAMPLING,) * 2)
    blocks = fine.reshape(pixels, _SUPERSAMPLING, pixels, _SUPERSAMPLING)
    return blocks.mean((1, 3))[..., None]


@lru_cache(maxsize=64)
def background(place: str, size: int) -> np.ndarray:
    """uint8 [size, size, 3], read-only."""
    first, second, is_second = PLACES[place]
    share = _coverage(is_second(*np.broadcast_arrays(*_grid(size))), size)
    pixels = np.round(share * np.array(second) + (1 - share) * np.array(first)).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


def _letter_coverage(letter: str, pixels: int) -> np.ndarray:
    """Like _coverage: the letter's 5x5 dots with a margin of one dot all round."""
    dots = np.zeros((7, 7), bool)
    dots[1:6, 1:6] = [[row >> bit & 1 for bit in range(4, -1, -1)] for row in LETTERS[letter]]
    cells = (np.arange(pixels * _SUPERSAMPLING) * 7) // (pixels * _SUPERSAMPLING)
    return _coverage(dots[np.ix_(cells, cells)], pixels)


def _grown(inside: np.ndarray, by: int) -> np.ndarray:
    """The area within `by` points of `inside`, up, down and sideways; both bool [n, n]."""
    for axis in (0, 1):
        padded = np.pad(inside, [(by, by) if a == axis else (0, 0) for a in (0, 1)])
        inside = np.lib.stride_tricks.sliding_window_view(padded, 2 * by + 1, axis).any(-1)
    return inside


@lru_cache(maxsize=1024)
def _stamp(shape: str, colour: str, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """(paint, keep) uint16 [pixels, pixels, 3]: the result is (paint + keep * below) >> 8.

    `shape` is a name of SHAPES, or a letter, which is a card with the letter on it. What appears for a
    moment has a dark edge, so that it does not melt into an actor of its colour.
    """
    edge = 0 if shape in ACTORS else max(1, round(_EDGE * pixels * _SUPERSAMPLING))
    u, v = (points * 2 - 1 for points in _grid(pixels))
    shrink = 1 + 2.2 * edge / (pixels * _SUPERSAMPLING)
    form = SHAPES["card" if shape in LETTERS else shape](u * shrink, v * shrink)
    form = np.broadcast_to(form, (pixels * _SUPERSAMPLING,) * 2)
    filled, covered = _coverage(form, pixels), _coverage(_grown(form, edge), pixels)
    ink = _letter_coverage(shape, pixels) * filled if shape in LETTERS else 0
    paint = (filled - ink) * np.array(COLOURS[colour]) + (covered - filled + ink) * np.array(_INK)
    keep = np.broadcast_to(256 * (1 - covered), paint.shape)
    return np.floor(256 * paint).astype(np.uint16), np.floor(keep).astype(np.uint16)


def _draw(frame: np.ndarray, shape: str, colour: str, share: float, x: float, y: float) -> None:
    """Stamp a shape of `share` of the frame, its corner at (x, y) in 0..1 of the room left."""
    size = frame.shape[0]
    pixels = max(4, round(share * size))
    left, top = round(x * (size - pixels)), round(y * (size - pixels))
    paint, keep = _stamp(shape, colour, pixels)
    region = frame[top : top + pixels, left : left + pixels]
    region[...] = (paint + keep * region) >> 8


def _draw_actor(frame: np.ndarray, actor: Actor, colour: str, seconds: float) -> None:
    rate_x, phase_x, rate_y, phase_y = actor.path
    x = 0.5 + 0.5 * np.sin(2 * np.pi * (rate_x * seconds + phase_x))
    y = 0.5 + 0.5 * np.sin(2 * np.pi * (rate_y * seconds + phase_y))
    _draw(frame, actor.shape, colour, actor.size, float(x), float(y))


def _draw_event(frame: np.ndarray, event: Event, seconds: float) -> None:
    done = (seconds - event.start) / (event.end - event.start)
    x0, y0, x1, y1 = event.places
    share = CARD_SIZE if event.kind == "card" else VISITOR_SIZE
    _draw(frame, event.shape, event.colour, share, x0 + done * (x1 - x0), y0 + done * (y1 - y0))


def draw(spec: Spec, seconds: float, frame: np.ndarray) -> None:
    """Draw the video at a time into `frame`, uint8 [size, size, 3]."""
    scene, event = spec.scene_at(seconds), spec.event_at(seconds)
    frame[...] = background(scene.place, spec.size)
    for actor in scene.actors:
        turned = event is not None and event.kind == "turn" and actor == spec.lead
        _draw_actor(frame, actor, event.colour if turned else actor.colour, seconds)
    if event is not None and event.kind != "turn":
        _draw_event(frame, event, seconds)


def render(spec: Spec, index: int) -> np.ndarray:
    """Frame `index` of the video recorded at spec.fps: uint8 [size, size, 3]."""
    frame = np.empty((spec.size, spec.size, 3), np.uint8)
    draw(spec, index / spec.fps, frame)
    return frame
