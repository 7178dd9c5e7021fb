"""Media files with clocks, timestamps and packets that are not what they seem."""

import dataclasses
import functools
import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests import media_bytes
from tests.media_case import LOST, SOUND, UNEVEN, VARYING, row
from tests.media_files import Picture, Sound, write
from tests.media_rates import HEVC_OPEN_GOP, OPEN_GOP, UNEVEN_TICKS, XVID

# --- timestamps and clocks


def _alike(*pairs: tuple[int, int]) -> Callable:
    """Packet `one` gets the times of packet `other`, for every pair."""

    def change(packets):
        for one, other in pairs:
            packets[one].pts, packets[one].dts = packets[other].pts, packets[other].dts
        return packets

    return change


def _same_times(
    ticks: tuple[int, ...], *pairs: tuple[int, int], tick: Fraction = Fraction(1, 25)
) -> np.ndarray:
    times = np.array([float(t * tick) for t in ticks])
    for one, other in pairs:
        times[one] = times[other]
    return times


def _drop(first: int, last: int) -> Callable:
    return lambda packets: packets[:first] + packets[last:]


def _join(*parts: Picture | Sound, muxing: dict | None = None) -> Callable[[Path], None]:
    """Append another recording to a file."""

    def after(path: Path) -> None:
        other = path.with_name(f"part_{path.name}")
        write(other, parts, **(muxing or {}))
        media_bytes.append(path, other.read_bytes())
        other.unlink()

    return after


def _edit(*edits: tuple[int, int], delay: int = 0) -> Callable[[Path], None]:
    """An edit list of (first, last) frame at 25 a second; `delay`: frames that the decoder is behind."""
    units = [((last - first) * 40, (first + delay) * 512) for first, last in edits]
    return lambda path: media_bytes.set_edits(path, units)


def clocks() -> None:
    frames = tuple(range(100))
    late = Picture(ticks=tuple(range(50, 150)))
    for name, sound in (
        ("mkv", "pcm_s16le"), ("mp4", "aac"), ("mov", "pcm_s16le"), ("ts", "mp2"),
        ("webm", "libopus"), ("flv", "pcm_s16le"), ("mpg", "mp2"), ("nut", "pcm_s16le"), ("asf", "mp2"),
    ):  # fmt: skip
        codec = {"webm": "libvpx", "mpg": "mpeg2video", "asf": "wmv2"}.get(name, "libx264")
        # Coders of sound begin a little before what they are given.
        slack = 0.06 if sound != "pcm_s16le" else 0.0
        rate = 48000 if sound == "libopus" else 44100
        row(
            f"late_start.{name}",
            dataclasses.replace(late, codec=codec),
            Sound(0, 6, sound, rate),
            may=SOUND,
            slack=slack,
        )
    for name, sound in (("mkv", "pcm_s16le"), ("mp4", "aac"), ("ts", "mp2"), ("avi", "mp2")):
        row(f"sound_goes_on.{name}", Picture(b_frames=2), Sound(0, 9, sound), may=SOUND, slack=0.06)
    row("late_sound.mkv", Picture(), Sound(1.5, 4))
    before = Picture(shift=-5)
    negative = {"options": {"avoid_negative_ts": "disabled"}}
    # Matroska has no times below zero: those of the first five pictures are missing.
    row("negative_start.mkv", before, muxing=negative, clock=False, slack=0.2)
    # In MP4 an edit list begins at zero, so that they are never shown.
    kept = {"seconds": np.arange(95) / 25, "numbers": np.arange(5, 100)}
    row("negative_start.mp4", before, muxing=negative, **kept)
    row("starts_at_an_hour.mkv", Picture(shift=90000))
    row("starts_at_an_hour.ts", Picture(shift=90000, b_frames=2))

    pairs = ((30, 29), (70, 69))
    repeated = Picture(change=_alike(*pairs))
    row("repeated_time.mkv", repeated, seconds=_same_times(frames, *pairs))
    row(
        "repeated_time.webm",
        dataclasses.replace(repeated, codec="libvpx"),
        seconds=_same_times(frames, *pairs),
    )
    row("repeated_time.flv", repeated, seconds=_same_times(frames, *pairs))
    # A recorder whose clock is set back by half a second on the way.
    back = functools.partial(media_bytes.shift_blocks, first=50, ticks=-500)
    set_back = {"may": ".", "slack": 0.6, "clock": False}
    row("clock_set_back.mkv", Picture(gop=1000), after=back, **set_back)
    row("clock_set_back.webm", Picture(codec="libvpx", gop=1000), after=back, **set_back)
    uneven = Picture(ticks=UNEVEN_TICKS, tick=Fraction(1, 30), rate=Fraction(30), change=_alike((90, 89)))
    times = _same_times(UNEVEN_TICKS, (90, 89), tick=Fraction(1, 30))
    row("repeated_time_uneven.mkv", uneven, seconds=times, varying=VARYING, warning=UNEVEN)
    row("missing_stamps.ts", Picture(), after=lambda path: media_bytes.drop_stamps(path, 5), clock=False)
    row(
        "missing_stamps_mpeg2.ts",
        Picture(codec="mpeg2video"),
        after=lambda path: media_bytes.drop_stamps(path, 25),
        clock=False,
    )

    # Two recordings one after the other: the second one's clock is an hour ahead, or starts again.
    second = Picture(numbers=tuple(range(100, 200)), b_frames=2)
    joined = {"seconds": np.arange(200) / 25, "warning": "jump", "clock": False}
    ahead = dataclasses.replace(second, shift=90000)
    row("clock_ahead.ts", Picture(b_frames=2), after=_join(ahead), **joined)
    row("clock_starts_again.ts", Picture(b_frames=2), after=_join(second), **joined)
    with_sound = _join(ahead, Sound(3600, 3604, "mp2"))
    row(
        "clock_ahead_with_sound.ts",
        Picture(b_frames=2),
        Sound(0, 4, "mp2"),
        after=with_sound,
        **joined,
        slack=0.06,
    )
    plain = dataclasses.replace(second, codec="mpeg2video")
    row("clock_starts_again.mpg", Picture(codec="mpeg2video", b_frames=2), after=_join(plain), **joined)
    # The clock of a transport stream has 33 bits of 1/90000 s: it starts again after 26.5 hours.
    row("clock_wraps.ts", Picture(shift=2386092 - 85, b_frames=2))

    lost = {"varying": VARYING, "warning": LOST}
    kept = np.r_[0:40, 75:100]
    for suffix, codec in (("mkv", "libx264"), ("mp4", "libx264"), ("webm", "libvpx"), ("flv", "libx264")):
        gap = Picture(codec=codec, change=_drop(40, 75))
        row(f"frames_lost.{suffix}", gap, seconds=kept / 25, numbers=kept, **lost)
    reception = {"seconds": kept / 25, "numbers": kept, **lost, "may": "damage|decode"}
    row("frames_lost.ts", Picture(), after=lambda path: media_bytes.cut_packets(path, 40, 75), **reception)
    begins = functools.partial(media_bytes.cut_start, picture=35)
    tail = {"seconds": 0.6 + np.arange(50) / 25, "numbers": np.arange(50, 100), "slack": 0.15, "may": "."}
    row("cut_into.ts", Picture(b_frames=2), Sound(0, 4, "mp2"), after=begins, **tail)

    # What stands before the first keyframe in time refers to a picture that is not there: it is not shown.
    for suffix in ("mkv", "ts"):
        for name, whole, packet, first in (
            ("open_gop", OPEN_GOP, 22, 25),
            ("hevc_open_gop", HEVC_OPEN_GOP, 29, 30),
        ):
            tail = {"seconds": np.arange(100 - first) / 25, "numbers": np.arange(first, 100), "may": "."}
            cut = dataclasses.replace(whole, change=_drop(0, packet))
            row(f"cut_{name}.{suffix}", cut, **tail, slack=0.15)

    row(
        "trimmed.mp4",
        Picture(),
        after=_edit((30, 100)),
        seconds=np.arange(70) / 25,
        numbers=np.arange(30, 100),
    )
    trimmed = {"seconds": np.arange(60) / 25, "numbers": np.arange(30, 90)}
    row("trimmed_b_frames.mov", Picture(b_frames=2), after=_edit((30, 90), delay=2), **trimmed)
    cut = np.r_[0:40, 75:100]
    row("cut_out.mp4", Picture(), after=_edit((0, 40), (75, 100)), seconds=np.arange(65) / 25, numbers=cut)
    again = np.r_[50:100, 0:50]
    row(
        "rearranged.mov",
        Picture(),
        after=_edit((50, 100), (0, 50)),
        seconds=np.arange(100) / 25,
        numbers=again,
    )


# --- packets that are no pictures, keyframes that are none


def _hide_between(packets):
    """The packets of odd times become alternate references, which are never shown."""
    found = []
    for packet in packets:
        if packet.pts % 2:
            assert not packet.is_keyframe
            packet = _like(media_bytes.hide_vp8(bytes(packet)), packet)
        found.append(packet)
    return found


def _all_keyframes(packets):
    for packet in packets:
        packet.is_keyframe = True
    return packets


VOP = b"\0\0\1\xb6"


def _packed(packets):
    """As DivX and Xvid put B-frames into AVI: behind the next P-frame, then an empty picture."""
    found = []
    for packet in packets:
        data = bytes(packet)
        if data[data.index(VOP) + 4] >> 6 == 2 and found:  # a B-frame
            held = _like(bytes(found[-1]) + data, found[-1])
            empty = _like(VOP + b"\x51\x00\x7f", packet)
            found[-1:] = [held, empty]
        else:
            found.append(_like(data.replace(VOP, b"\0\0\1\xb2DivX503b1393p" + VOP, 1), packet))
    return found


def _like(data: bytes, packet: av.Packet) -> av.Packet:
    """A packet of other bytes."""
    new = av.Packet(data)
    new.pts, new.dts, new.time_base, new.stream = packet.pts, packet.dts, packet.time_base, packet.stream
    new.is_keyframe, new.duration = packet.is_keyframe, packet.duration
    return new


def _resized(packets):
    """The second half in half the size."""
    with av.open(io.BytesIO(), "w", format="webm") as output:
        small = Picture(
            codec="libvpx", ticks=tuple(range(50, 100)), numbers=tuple(range(50, 100)), size=(64, 128)
        )
        later = small.packets(small.start(output))
        return packets[:50] + [_like(bytes(packet), like) for packet, like in zip(later, packets[50:])]


def _split(packets):
    """After `vp9_superframe_split` a hidden frame has no time: it takes that of the shown one behind it."""
    for packet, following in zip(packets[-2::-1], packets[:0:-1]):
        if packet.pts is None:
            packet.pts = packet.dts = following.pts
    return packets


def packets() -> None:
    shown = [(2 * k, k) for k in range(100)]
    both = sorted(shown + [(2 * k - 1, k) for k in range(10, 100, 10)])
    hidden = Picture(
        codec="libvpx",
        ticks=tuple(t for t, _ in both),
        numbers=tuple(n for _, n in both),
        tick=Fraction(1, 50),
        rate=Fraction(25),
        gop=30,
        change=_hide_between,
    )
    truth = {"seconds": np.arange(100) / 25, "numbers": np.arange(100)}
    for suffix in ("webm", "mkv", "ivf"):
        row(f"hidden_packets.{suffix}", hidden, **truth)
    lookahead = {"deadline": "good", "cpu-used": "5", "lag-in-frames": "16", "auto-alt-ref": "1"}
    vp9 = Picture(codec="libvpx-vp9", options=lookahead, gop=50)
    row("superframes.webm", vp9)
    row("superframes_split.webm", dataclasses.replace(vp9, filter="vp9_superframe_split", settle=_split))
    packed = Picture(**XVID, b_frames=1, gop=20, change=_packed)
    row("packed_b_frames.avi", packed)
    row("packed_b_frames_long.avi", dataclasses.replace(packed, ticks=tuple(range(400))))
    row("resized.webm", Picture(codec="libvpx", gop=50, change=_resized), may="size")
    for name, codec in (("asf", "msmpeg4"), ("avi", "msmpeg4"), ("mkv", "libx264"), ("mp4", "mpeg4")):
        marked = Picture(codec=codec, ticks=tuple(range(400)), gop=80, change=_all_keyframes)
        row(f"all_marked_keyframes.{name}", marked)
