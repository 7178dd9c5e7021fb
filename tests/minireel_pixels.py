"""Answers to minireel's questions from pixels alone, to check the world's own answers against.

A video is drawn with and without its events; what differs is recognised by its looks, and questions
are answered by their wording. Nothing here reads the spec's events or what questions say of themselves.
"""

import dataclasses
import functools
import itertools
import re
from collections import Counter

import numpy as np

from tempo_jax.data.minireel import draw, questions, world


def bare(spec):
    """The video without its events."""
    return dataclasses.replace(spec, events=())


def _box(mask):
    """The part of a 2-D mask that is not empty, as a pair of slices."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


@functools.cache
def _looks(size):
    """((kind, colour, shape), pixels [h, w, 3], which of them are opaque [h, w]) of all that may be shown."""
    looks = []
    kinds = [("visit", shape) for shape in world.VISITORS] + [("card", letter) for letter in world.LETTERS]
    pixels = round(world.VISITOR_SIZE * size)
    for (kind, shape), colour in itertools.product(kinds, world.COLOURS):
        paint, keep = draw._stamp(shape, colour, pixels)
        box = _box(keep[..., 0] < 256)
        looks.append(((kind, colour, shape), (paint[box] >> 8).astype(int), keep[box][..., 0] == 0))
    return looks


def _nearest_colour(pixels):
    """The colour name most of the pixels [n, 3] have."""
    names = list(world.COLOURS)
    table = np.array([world.COLOURS[name] for name in names])
    near = np.abs(pixels[:, None].astype(int) - table).max(-1) < 12
    return names[int(near.sum(0).argmax())]


def _recognise(frame, changed):
    """(kind, colour, shape) of what differs from the frame without events."""
    box = _box(changed)
    found = frame[box].astype(int)
    scores = {}
    for name, look, solid in _looks(frame.shape[0]):
        # A pixel of tolerance: an edge may equal what it covers.
        if max(abs(look.shape[0] - found.shape[0]), abs(look.shape[1] - found.shape[1])) <= 1:
            h, w = np.minimum(look.shape[:2], found.shape[:2])
            gap = np.abs(look[:h, :w] - found[:h, :w])[solid[:h, :w]]
            scores[name] = gap.mean()
    best = min(scores, key=scores.get, default=None)
    if best is not None and scores[best] < 12:
        return best
    return ("turn", _nearest_colour(frame[changed]), None)


def watch(reel):
    """From pixels: events [(first s, last s, kind, colour, shape)], places by frame, frames by colour."""
    spec = reel.spec
    with_events = reel.frames(range(spec.num_frames))
    without = np.stack([draw.render(bare(spec), index) for index in range(spec.num_frames)])
    changed = (with_events != without).any(-1)
    events, run = [], []
    for index in range(spec.num_frames + 1):
        if index < spec.num_frames and changed[index].any():
            run.append(index)
        elif run:
            middle = run[len(run) // 2]
            what = _recognise(with_events[middle], changed[middle])
            events.append((run[0] / spec.fps, run[-1] / spec.fps, *what))
            run = []
    backgrounds = {place: draw.background(place, spec.size) for place in world.PLACES}
    places = [
        max(backgrounds, key=lambda place: (frame == backgrounds[place]).all(-1).sum()) for frame in without
    ]
    colours = Counter()
    for name, colour in world.COLOURS.items():
        colours[name] = int(((without == np.uint8(colour)).all(-1).sum((1, 2)) > 40).sum())
    return events, places, colours


def _parse(question):
    """The values in a question's gaps, from its wording."""
    for asked, question_type in questions.TYPES.items():
        for phrasing in question_type.phrasings:
            pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[\\w ]+?)", re.escape(phrasing))
            if match := re.fullmatch(pattern, question.text):
                return asked, match.groupdict()
    raise AssertionError(question.text)


def _name(event):
    return f"letter {event[4]}" if event[2] == "card" else f"{event[3]} {event[4]}"


def _called(event):
    return f"{event[3]} card" if event[2] == "card" else _name(event)


def answer(question, fps, watched):
    """The right option, worked out from what was watched."""
    events, places, colours = watched
    asked, slot = _parse(question)
    shown = [event for event in events if event[2] != "turn"]
    visits = [event for event in shown if event[2] == "visit"]
    named = [number for number, event in enumerate(shown) if _called(event) == slot.get("name")]

    def one(values):
        values = list(values)
        assert len(set(values)) == 1, (question, values)
        return values[0]

    def moment_of(event):
        half = question.tolerance / 2  # a standard segment's
        times = {option: float(option.removesuffix(" seconds")) for option in question.options}
        return one(option for option, t in times.items() if t - half <= event[0] and event[1] <= t + half)

    find = {
        "letter": lambda: one(e[4] for e in shown if e[2] == "card" and e[3] == slot["colour"]),
        "shape": lambda: one(e[4] for e in visits if e[3] == slot["colour"]),
        "turn": lambda: one(e[3] for e in events if e[2] == "turn"),
        "place": lambda: one(places[round(shown[n][0] * fps)] for n in named),
        "when": lambda: moment_of(one(shown[n] for n in named)),
        "when_turn": lambda: moment_of(one(e for e in events if e[2] == "turn")),
        "after": lambda: _name(shown[one(named) + 1]),
        "before": lambda: _name(shown[one(named) - 1]),
        "count": lambda: str(len(named)),
        "most_place": lambda: Counter(places).most_common(1)[0][0],
        "most_shape": lambda: one(
            option for option in question.options if option.startswith(colours.most_common(1)[0][0])
        ),
    }
    return find[asked]()
