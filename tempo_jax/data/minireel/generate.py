"""From (split, index) to the spec of a video: every random choice about its content is made here."""

import math

import numpy as np

from tempo_jax.data.minireel import world
from tempo_jax.data.minireel.world import Actor, Event, Scene, Spec
from tempo_jax.errors import TempoError

LENGTHS = (16, 32, 64, 128, 256, 512)  # seconds, where the caller names none
MIN_SECONDS, MAX_SECONDS = 8, 6 * 3600
MIN_SIZE, MAX_SIZE = 32, 512
MAX_REPEATS = 4  # of the event to count
COUNTING_SEGMENTS = 8  # shorter videos have no room for an event that repeats
_SALT = 20260408  # part of every seed, so that other code's seeds never make our videos
_MAIN_SHARE, _LEAD_SHARE, _GUEST_SHARE = 0.6, 0.65, 0.4  # of the video: at least, at least, at most


def generator(split: str, index: int, stream: int) -> np.random.Generator:
    """Random numbers of one video; streams of it, other videos and other splits are independent."""
    return np.random.default_rng((_SALT, list(world.SPLITS).index(split), index, stream))


def check(split: str, index: int, seconds: float, size: int, fps: float) -> None:
    """TempoError unless such a video can be made."""
    if split not in world.SPLITS:
        raise TempoError(f"There is no split {split!r}: choose one of {', '.join(world.SPLITS)}.")
    if index < 0:
        raise TempoError(f"Index {index} is below 0: videos are counted from 0.")
    if not (math.isfinite(seconds) and MIN_SECONDS <= seconds <= MAX_SECONDS):
        raise TempoError(
            f"{seconds:g} seconds is not between {MIN_SECONDS} and {MAX_SECONDS}: choose another length."
        )
    if not MIN_SIZE <= size <= MAX_SIZE or size % 2:
        raise TempoError(f"Size {size} is not an even number of pixels between {MIN_SIZE} and {MAX_SIZE}.")
    if not (math.isfinite(fps) and 0 < fps <= 60):
        raise TempoError(f"{fps:g} frames per second is not above 0 and at most 60.")


def spec(
    split: str,
    index: int,
    *,
    seconds: float | None = None,
    size: int = 96,
    fps: float = 2.0,
    sample_fps: float = 2.0,
    max_frames: int = 1024,
) -> Spec:
    """The video `index` of a split.

    `seconds`: its length (8 to 21600; None: one of LENGTHS, drawn). `size`: height and width in pixels.
    `fps`: of the recording. `sample_fps`, `max_frames`: how the model will sample it; events last 3 to 6
    sampled frames, so that in a longer video, sampled more thinly, they are still seen.
    Raises TempoError for a value out of range.
    """
    check(split, index, MIN_SECONDS if seconds is None else seconds, size, fps)
    if not (math.isfinite(sample_fps) and sample_fps > 0 and max_frames >= 2 * world.SEGMENT_FRAMES):
        raise TempoError("The model's sampling needs a rate above 0 fps and a limit of at least 16 frames.")
    rng = generator(split, index, 0)
    drawn = float(rng.choice(LENGTHS))
    seconds = drawn if seconds is None else float(seconds)
    stride = max(1 / sample_fps, seconds / max_frames)
    segments = max(1, round(seconds / stride) // world.SEGMENT_FRAMES)
    place, lead, guests = _cast(split, rng)
    scenes = _scenes(rng, seconds, segments, stride, place, lead, guests)
    what, counted = _what(rng, segments, lead)
    events = _events(rng, what, scenes, segments, stride, lead)
    return Spec(split, index, seconds, fps, size, stride, place, lead, guests, scenes, events, counted)


def _cast(split: str, rng: np.random.Generator) -> tuple[str, Actor, tuple[Actor, ...]]:
    """Main place, lead, and three guests; no two of the four actors share a shape or a colour.

    So nothing in the list of the four says which one leads.
    """
    shapes = rng.permutation(len(world.ACTORS))
    colours = rng.permutation(len(world.COLOURS))
    residue = int(rng.choice(world.SPLITS[split]))
    place = world.PLACES[(residue - shapes[0] - colours[0]) % len(world.PLACES)]
    names = list(world.COLOURS)
    actors = []
    for number, (shape, colour) in enumerate(zip(shapes, colours)):
        # Half a turn or less per sampled second: seen as motion at 2 fps.
        path = np.round(rng.uniform((0.06, 0, 0.06, 0), (0.16, 1, 0.16, 1)), 4)
        size = world.GUEST_SIZE if number else world.LEAD_SIZE
        actors.append(Actor(names[colour], world.ACTORS[shape], size, tuple(map(float, path))))
    return place, actors[0], tuple(actors[1:])


def _until(rng: np.random.Generator, lengths: np.ndarray, share: float) -> set[int]:
    """Scenes in random order until they cover `share` of the video."""
    order = rng.permutation(len(lengths))
    covered = np.cumsum(lengths[order]) / lengths.sum()
    return set(order[: int(np.argmax(covered >= share)) + 1].tolist())


def _scenes(
    rng: np.random.Generator,
    seconds: float,
    segments: int,
    stride: float,
    place: str,
    lead: Actor,
    guests: tuple[Actor, ...],
) -> tuple[Scene, ...]:
    """Scenes of whole segments; place and lead hold their shares, each guest stays below its own."""
    most = min(10, segments // 2)
    count = 1 if segments < 4 else int(rng.integers(min(4, most), most + 1))
    cuts = np.sort(rng.choice(np.arange(1, segments), count - 1, replace=False))
    edges = [0.0, *(float(cut) * world.SEGMENT_FRAMES * stride for cut in cuts), seconds]
    lengths = np.diff(edges)
    main, led = _until(rng, lengths, _MAIN_SHARE), _until(rng, lengths, _LEAD_SHARE)
    others = list(rng.permutation([name for name in world.PLACES if name != place]))
    shown = dict.fromkeys(guests, 0.0)  # seconds
    scenes, elsewhere = [], 0
    for number, length in enumerate(lengths):
        rarest = min(guests, key=shown.get)
        invited = number not in led or rng.random() < 0.5
        actors = [lead] if number in led else []
        if invited and shown[rarest] + length <= _GUEST_SHARE * seconds:
            shown[rarest] += length
            actors.insert(0, rarest)
        where = place
        if number not in main:
            where, elsewhere = str(others[elsewhere % len(others)]), elsewhere + 1
        scenes.append(Scene(edges[number], edges[number + 1], where, tuple(actors)))
    return tuple(scenes)


def _what(
    rng: np.random.Generator, segments: int, lead: Actor
) -> tuple[list[tuple[str, str, str]], str | None]:
    """(kind, colour, shape) of every event to come, in no order; and the name of the one to count.

    Visits have colours of their own, and single ones shapes too; cards have colours and letters of their
    own. The visit that repeats (1 to 4 times, each as likely) has, half the time, a twin of another colour.
    """
    room = max(1, 3 * segments // 4)
    colours = list(world.COLOURS)
    shapes = [str(shape) for shape in rng.permutation(world.VISITORS)]
    palette = [str(colour) for colour in rng.permutation(colours)]
    events, counted = [], None
    if segments >= COUNTING_SEGMENTS:
        shape = shapes.pop()
        colour, other = (palette.pop() for _ in range(2))
        counted = f"{colour} {shape}"
        events = [("visit", colour, shape)] * int(rng.integers(1, MAX_REPEATS + 1))
        if len(events) < room - 1 and rng.random() < 0.5:
            events.append(("visit", other, shape))
    turned = rng.choice([colour for colour in colours if colour != lead.colour])
    singles = [("turn", str(turned), lead.shape)]
    singles += [("visit", palette.pop(), shape) for shape in shapes[:4]]
    cards = zip(rng.choice(colours, 3, replace=False), rng.choice(list(world.LETTERS), 3, replace=False))
    singles += [("card", str(colour), str(letter)) for colour, letter in cards]
    wanted = int(rng.integers(4, len(singles) + 1))
    chosen = rng.permutation(len(singles))[: max(1, min(wanted, room - len(events)))]
    return events + [singles[number] for number in chosen], counted


def _events(
    rng: np.random.Generator,
    what: list[tuple[str, str, str]],
    scenes: tuple[Scene, ...],
    segments: int,
    stride: float,
    lead: Actor,
) -> tuple[Event, ...]:
    """The events in order of time, each in a segment of its own."""
    spread = 2 * len(what) - 1 <= segments  # then no two events in neighboring segments
    free = segments - (len(what) - 1) * spread
    slots = np.sort(rng.choice(free, len(what), replace=False))
    slots = slots + np.arange(len(what)) * spread
    whats = [what[number] for number in rng.permutation(len(what))]
    whats = _turns_where_lead_is(rng, whats, slots * world.SEGMENT_FRAMES * stride, scenes, lead)
    events = []
    for slot, (kind, colour, shape) in zip(slots, whats):
        # In strides from the segment's start; 1 and 7 keep clear of its edges however frames are spread.
        length = rng.uniform(3, 6)
        start = 1 + rng.uniform(0, 6 - length)
        begin, end = (
            round((world.SEGMENT_FRAMES * int(slot) + at) * stride, 3) for at in (start, start + length)
        )
        x, y = rng.uniform(0, 1, 2)
        x1, y1 = np.clip((x, y) + rng.uniform(-0.3, 0.3, 2), 0, 1)
        places = tuple(round(float(value), 4) for value in (x, y, x1, y1))
        events.append(Event(kind, begin, end, colour, shape, places))
    return tuple(events)


def _turns_where_lead_is(
    rng: np.random.Generator,
    whats: list[tuple[str, str, str]],
    starts: np.ndarray,
    scenes: tuple[Scene, ...],
    lead: Actor,
) -> list[tuple[str, str, str]]:
    """The same events in an order in which a turn has the lead on screen.

    Where no such slot exists the turn becomes a card, which needs no lead.
    """
    turns = [number for number, what in enumerate(whats) if what[0] == "turn"]
    for number in turns:
        there = [
            slot
            for slot, start in enumerate(starts)
            if any(scene.start <= start < scene.end and lead in scene.actors for scene in scenes)
        ]
        if there:
            slot = int(rng.choice(there))
            whats[number], whats[slot] = whats[slot], whats[number]
        else:
            used = {value for kind, *values in whats if kind == "card" for value in values}
            colour = rng.choice([name for name in world.COLOURS if name not in used])
            letter = rng.choice([name for name in world.LETTERS if name not in used])
            whats[number] = ("card", str(colour), str(letter))
    return whats
