"""The table of small media files: how each is made, and what a player shows of it.

The truth of a row comes from how its file is made, never from what reads it.
`python -m tests.media_cases FOLDER` writes all of them there; with `--check` it also compares the truths with
what plain PyAV decodes.
"""

import argparse
import dataclasses
import functools
import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests import media_bytes
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


def _add(case: Case) -> None:
    assert case.name not in CASES, case.name
    CASES[case.name] = case


def _row(
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
    _add(Case(name, make, seconds, numbers, size or picture.size, **truth))


def _film(**changes) -> Picture:
    return Picture(**changes)


NTSC = Fraction(1001, 30000)
MS = Fraction(1, 1000)
XVID = {"codec": "mpeg4", "tag": "XVID"}


# --- constant rates: containers and codecs


def _constant() -> None:
    for suffix in ("mp4", "mov", "mkv", "avi", "flv", "ts", "nut"):
        _row(f"h264_b_frames.{suffix}", _film(b_frames=2))
    _row(
        "camcorder.mts",
        _film(b_frames=2, tick=NTSC),
        muxing={"options": {"mpegts_m2ts_mode": "1"}, "format": "mpegts"},
    )
    _row("ntsc.mp4", _film(tick=NTSC, b_frames=3))
    _row("ntsc.mkv", _film(tick=NTSC))
    _row("fast.mp4", _film(tick=Fraction(1, 120), ticks=tuple(range(240)), gop=60))
    _row("slow.mkv", _film(tick=Fraction(1), ticks=tuple(range(20)), gop=5))
    open_gop = {"options": {"x264-params": "open-gop=1"}, "b_frames": 2}
    for suffix in ("mkv", "mp4", "ts"):
        _row(f"open_gop.{suffix}", _film(**open_gop))
    hevc_open = _film(codec="libx265", b_frames=3, options={"x265": "open-gop=1"})
    for suffix in ("mkv", "mp4", "ts"):
        _row(f"hevc_open_gop.{suffix}", hevc_open)
    _row("hevc_10_bit.mov", _film(codec="libx265", pixels="yuv420p10le", tag="hvc1"))
    _row("interlaced.ts", _film(options={"flags": "+ildct+ilme", "x264-params": "tff=1"}, b_frames=2))
    _row("odd_sides.mkv", _film(size=(127, 255), pixels="yuv444p"))
    for name, codec in (
        ("vp8.webm", "libvpx"), ("vp8.ogv", "libvpx"), ("vp8.ivf", "libvpx"),
        ("vp9.webm", "libvpx-vp9"), ("vp9.mp4", "libvpx-vp9"),
        ("av1.mp4", "libsvtav1"), ("av1.webm", "libsvtav1"), ("av1.mkv", "libsvtav1"),
        ("av1.obu", "libsvtav1"), ("mpeg4.mp4", "mpeg4"), ("mpeg2.ts", "mpeg2video"),
        ("mpeg2.mxf", "mpeg2video"), ("mpeg1.mpg", "mpeg1video"),
        ("mjpeg.avi", "mjpeg"), ("mjpeg.mov", "mjpeg"), ("raw.mjpeg", "mjpeg"), ("prores.mov", "prores_ks"),
        ("ffv1.mkv", "ffv1"), ("ffv1.avi", "ffv1"), ("png.mov", "png"), ("qtrle.mov", "qtrle"),
        ("wmv2.wmv", "wmv2"), ("wmv1.asf", "wmv1"), ("sorenson.flv", "flv"), ("zmbv.avi", "zmbv"),
    ):  # fmt: skip
        _row(name, _film(codec=codec))
    _row("huffyuv.avi", _film(codec="huffyuv", ticks=tuple(range(20))))
    _row("raw.y4m", _film(codec="rawvideo", ticks=tuple(range(12))))
    _row("dnxhr.mov", _film(codec="dnxhd", options={"profile": "dnxhr_lb"}, ticks=tuple(range(40))))
    _row("xvid.avi", _film(**XVID), Sound(0, 4, "mp2"))
    _row("xvid_b_frames.avi", _film(**XVID, b_frames=2))
    for suffix in ("mkv", "mp4", "nut"):
        _row(f"mpeg4_b_frames.{suffix}", _film(codec="mpeg4", b_frames=2))
    for suffix in ("mpg", "vob"):
        _row(f"mpeg2_b_frames.{suffix}", _film(codec="mpeg2video", b_frames=2), Sound(0, 4, "mp2"))
    _row("h263.3gp", _film(codec="h263", size=(144, 176)), size=(144, 192))  # H.263's own pixels are 12:11
    _row("mpeg4.3gp", _film(codec="mpeg4"))
    # Elementary streams: the rate is the codec's own, or else 25.
    _row("bare.h264", _film(b_frames=2))
    _row("bare.hevc", _film(codec="libx265", b_frames=2))
    _row("bare.m4v", _film(codec="mpeg4"))
    _row("bare.m2v", _film(codec="mpeg2video", b_frames=2))
    delimited = _film(options={"aud": "1"}, b_frames=2)
    _row(
        "delimiter_at_the_end.h264",
        delimited,
        after=lambda path: media_bytes.append(path, b"\0\0\0\1\x09\xf0"),
    )
    _row("many_gops.mp4", _film(ticks=tuple(range(1200)), gop=20, b_frames=2))
    _row("many_gops.mkv", _film(ticks=tuple(range(1200)), gop=20))
    _row("many_gops.ts", _film(ticks=tuple(range(1200)), gop=20, b_frames=2))
    _row("sparse_keyframes.mkv", _film(ticks=tuple(range(1000)), gop=400, b_frames=2))
    _row("sparse_keyframes.webm", _film(ticks=tuple(range(1000)), gop=300, codec="libvpx-vp9"))
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    _row("fragmented.mp4", _film(b_frames=2), muxing={"options": fragments})
    every = {"movflags": "frag_every_frame+empty_moov"}
    _row("fragment_each_frame.mp4", _film(), Sound(0, 4, "aac"), muxing={"options": every}, slack=0.03)
    for suffix, format, codec in (
        ("mkv", "matroska", "libx264"),
        ("webm", "webm", "libvpx"),
        ("flv", "flv", "libx264"),
    ):
        _row(f"live.{suffix}", _film(codec=codec), muxing={"live": True, "format": format})


# --- rates that vary

UNEVEN_TICKS = tuple(range(60)) + tuple(range(60, 60 + 60 * 6, 6))
PHONE_TICKS = tuple(33 * k for k in range(200)) + tuple(6600 + 42 * k for k in range(200))


def _screen_ticks() -> tuple[int, ...]:
    """A screen recorder's: bursts of motion and long rests, in 1/30 s."""
    gaps = np.random.default_rng(3).choice([1, 1, 1, 1, 2, 20, 75], 150)
    return tuple(int(t) for t in np.cumsum(gaps))


def _jitter_ticks() -> tuple[int, ...]:
    """A camera's: 25 a second, each up to 12 ms early or late, in milliseconds."""
    late = np.random.default_rng(4).integers(-12, 13, 150)
    return tuple(int(40 * k + late[k]) + 12 for k in range(150))


def _variable() -> None:
    uneven = {"ticks": UNEVEN_TICKS, "tick": Fraction(1, 30), "rate": Fraction(30)}
    truth = {"varying": VARYING, "warning": UNEVEN}
    for name, codec in (
        ("mp4", "libx264"), ("mov", "libx264"), ("mkv", "libx264"), ("flv", "libx264"), ("ts", "libx264"),
        ("nut", "mpeg4"), ("webm", "libvpx"), ("asf", "wmv2"), ("avi", "mpeg4"), ("3gp", "mpeg4"),
    ):  # fmt: skip
        _row(f"uneven.{name}", _film(**uneven, codec=codec), **truth)
    _row("uneven_b_frames.mp4", _film(**uneven, b_frames=2), Sound(0, 14, "aac"), **truth)
    _row("uneven_hevc.mkv", _film(**uneven, codec="libx265", b_frames=3), **truth)
    _row("uneven_av1.mp4", _film(**uneven, codec="libsvtav1"), **truth)
    _row("uneven_vp9.webm", _film(**uneven, codec="libvpx-vp9"), **truth)
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    _row("uneven_fragments.mp4", _film(**uneven), muxing={"options": fragments}, **truth)
    _row("uneven_live.mkv", _film(**uneven), muxing={"live": True, "format": "matroska"}, **truth)
    phone = _film(ticks=PHONE_TICKS, tick=MS, rate=Fraction(30), gop=30)
    _row("phone_at_dusk.mp4", phone, **truth)
    _row("phone_at_dusk.mov", dataclasses.replace(phone, codec="libx265", tag="hvc1"), **truth)
    screen = _film(ticks=_screen_ticks(), tick=Fraction(1, 30), rate=Fraction(30), gop=250)
    _row("screen_recording.mkv", screen, **truth)
    _row("screen_recording.mp4", screen, **truth)
    for suffix in ("mkv", "mp4", "flv"):
        _row(f"jitter.{suffix}", _film(ticks=_jitter_ticks(), tick=MS, rate=Fraction(25)))


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


def _clocks() -> None:
    frames = tuple(range(100))
    late = _film(ticks=tuple(range(50, 150)))
    for name, sound in (
        ("mkv", "pcm_s16le"), ("mp4", "aac"), ("mov", "pcm_s16le"), ("ts", "mp2"),
        ("webm", "libopus"), ("flv", "pcm_s16le"), ("mpg", "mp2"), ("nut", "pcm_s16le"), ("asf", "mp2"),
    ):  # fmt: skip
        codec = {"webm": "libvpx", "mpg": "mpeg2video", "asf": "wmv2"}.get(name, "libx264")
        # Coders of sound begin a little before what they are given.
        slack = 0.06 if sound != "pcm_s16le" else 0.0
        rate = 48000 if sound == "libopus" else 44100
        _row(
            f"late_start.{name}",
            dataclasses.replace(late, codec=codec),
            Sound(0, 6, sound, rate),
            may=SOUND,
            slack=slack,
        )
    for name, sound in (("mkv", "pcm_s16le"), ("mp4", "aac"), ("ts", "mp2"), ("avi", "mp2")):
        _row(f"sound_goes_on.{name}", _film(b_frames=2), Sound(0, 9, sound), may=SOUND, slack=0.06)
    _row("late_sound.mkv", _film(), Sound(1.5, 4))
    before = _film(shift=-5)
    negative = {"options": {"avoid_negative_ts": "disabled"}}
    # Matroska has no times below zero: those of the first five pictures are missing.
    _row("negative_start.mkv", before, muxing=negative, clock=False, slack=0.2)
    # In MP4 an edit list begins at zero, so that they are never shown.
    kept = {"seconds": np.arange(95) / 25, "numbers": np.arange(5, 100)}
    _row("negative_start.mp4", before, muxing=negative, **kept)
    _row("starts_at_an_hour.mkv", _film(shift=90000))
    _row("starts_at_an_hour.ts", _film(shift=90000, b_frames=2))

    pairs = ((30, 29), (70, 69))
    repeated = _film(change=_alike(*pairs))
    _row("repeated_time.mkv", repeated, seconds=_same_times(frames, *pairs))
    _row(
        "repeated_time.webm",
        dataclasses.replace(repeated, codec="libvpx"),
        seconds=_same_times(frames, *pairs),
    )
    uneven = _film(ticks=UNEVEN_TICKS, tick=Fraction(1, 30), rate=Fraction(30), change=_alike((90, 89)))
    times = _same_times(UNEVEN_TICKS, (90, 89), tick=Fraction(1, 30))
    _row("repeated_time_uneven.mkv", uneven, seconds=times, varying=VARYING, warning=UNEVEN)
    _row("missing_stamps.ts", _film(), after=lambda path: media_bytes.drop_stamps(path, 5), clock=False)
    _row(
        "missing_stamps_mpeg2.ts",
        _film(codec="mpeg2video"),
        after=lambda path: media_bytes.drop_stamps(path, 25),
        clock=False,
    )

    # Two recordings one after the other: the second one's clock is an hour ahead, or starts again.
    second = _film(numbers=tuple(range(100, 200)), b_frames=2)
    joined = {"seconds": np.arange(200) / 25, "warning": "jump", "clock": False}
    ahead = dataclasses.replace(second, shift=90000)
    _row("clock_ahead.ts", _film(b_frames=2), after=_join(ahead), **joined)
    _row("clock_starts_again.ts", _film(b_frames=2), after=_join(second), **joined)
    with_sound = _join(ahead, Sound(3600, 3604, "mp2"))
    _row(
        "clock_ahead_with_sound.ts",
        _film(b_frames=2),
        Sound(0, 4, "mp2"),
        after=with_sound,
        **joined,
        slack=0.06,
    )
    plain = dataclasses.replace(second, codec="mpeg2video")
    _row("clock_starts_again.mpg", _film(codec="mpeg2video", b_frames=2), after=_join(plain), **joined)
    # The clock of a transport stream has 33 bits of 1/90000 s: it starts again after 26.5 hours.
    _row("clock_wraps.ts", _film(shift=2386092 - 85, b_frames=2))

    lost = {"varying": VARYING, "warning": LOST}
    kept = np.r_[0:40, 75:100]
    for suffix, codec in (("mkv", "libx264"), ("mp4", "libx264"), ("webm", "libvpx"), ("flv", "libx264")):
        gap = _film(codec=codec, change=_drop(40, 75))
        _row(f"frames_lost.{suffix}", gap, seconds=kept / 25, numbers=kept, **lost)
    reception = {"seconds": kept / 25, "numbers": kept, **lost, "may": "damage|decode"}
    _row("frames_lost.ts", _film(), after=lambda path: media_bytes.cut_packets(path, 40, 75), **reception)
    begins = functools.partial(media_bytes.cut_start, picture=35)
    tail = {"seconds": 0.6 + np.arange(50) / 25, "numbers": np.arange(50, 100), "slack": 0.15, "may": "."}
    _row("cut_into.ts", _film(b_frames=2), Sound(0, 4, "mp2"), after=begins, **tail)

    _row(
        "trimmed.mp4", _film(), after=_edit((30, 100)), seconds=np.arange(70) / 25, numbers=np.arange(30, 100)
    )
    trimmed = {"seconds": np.arange(60) / 25, "numbers": np.arange(30, 90)}
    _row("trimmed_b_frames.mov", _film(b_frames=2), after=_edit((30, 90), delay=2), **trimmed)
    cut = np.r_[0:40, 75:100]
    _row("cut_out.mp4", _film(), after=_edit((0, 40), (75, 100)), seconds=np.arange(65) / 25, numbers=cut)
    again = np.r_[50:100, 0:50]
    _row(
        "rearranged.mov", _film(), after=_edit((50, 100), (0, 50)), seconds=np.arange(100) / 25, numbers=again
    )


# --- packets that are no pictures, keyframes that are none


def _hide_between(packets):
    """The packets of odd times become alternate references, which are never shown."""
    found = []
    for packet in packets:
        if packet.pts % 2:
            assert not packet.is_keyframe
            hidden = av.Packet(media_bytes.hide_vp8(bytes(packet)))
            hidden.pts, hidden.dts, hidden.time_base = packet.pts, packet.dts, packet.time_base
            hidden.stream = packet.stream
            packet = hidden
        found.append(packet)
    return found


def _all_keyframes(packets):
    for packet in packets:
        packet.is_keyframe = True
    return packets


def _split(packets):
    """After `vp9_superframe_split` a hidden frame has no time: it takes that of the shown one behind it."""
    for packet, following in zip(packets[-2::-1], packets[:0:-1]):
        if packet.pts is None:
            packet.pts = packet.dts = following.pts
    return packets


def _packets() -> None:
    shown = [(2 * k, k) for k in range(100)]
    both = sorted(shown + [(2 * k - 1, k) for k in range(10, 100, 10)])
    hidden = _film(
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
        _row(f"hidden_packets.{suffix}", hidden, **truth)
    lookahead = {"deadline": "good", "cpu-used": "5", "lag-in-frames": "16", "auto-alt-ref": "1"}
    vp9 = _film(codec="libvpx-vp9", options=lookahead, gop=50)
    _row("superframes.webm", vp9)
    _row("superframes_split.webm", dataclasses.replace(vp9, filter="vp9_superframe_split", settle=_split))
    for name, codec in (("asf", "msmpeg4"), ("avi", "msmpeg4"), ("mkv", "libx264"), ("mp4", "mpeg4")):
        marked = _film(codec=codec, ticks=tuple(range(400)), gop=80, change=_all_keyframes)
        _row(f"all_marked_keyframes.{name}", marked)


# --- orientation, shape, streams, tags

COVER = io.BytesIO()
Image.fromarray(paint(9999, 300, 300)).save(COVER, "JPEG")


def _turned(turn: str) -> dict:
    size = (128, 256) if TURNS[turn][0] else (256, 128)
    return {"size": size, "turn": TURNS[turn], "b_frames": 2, "ticks": tuple(range(60))}


def _shapes() -> None:
    for turn in TURNS:
        if turn != "upright":
            matrix = functools.partial(media_bytes.set_matrix, turn=TURNS[turn])
            _row(f"{turn}.mp4", _film(**_turned(turn)), after=matrix)
    for turn in ("mirrored", "turned_90"):
        matrix = functools.partial(media_bytes.set_matrix, turn=TURNS[turn])
        _row(f"{turn}.mov", _film(**_turned(turn), codec="libx265", tag="hvc1"), after=matrix)
    sei = "h264_metadata=display_orientation=insert"
    _row("turned_by_message.ts", _film(**_turned("turned_270"), gop=100, filter=f"{sei}:rotate=90"))
    _row("mirrored_by_message.ts", _film(**_turned("mirrored"), gop=100, filter=f"{sei}:flip=horizontal"))
    wide = {"aspect": Fraction(4, 3), "size": (128, 256)}
    for name, codec in (
        ("mp4", "libx264"),
        ("mkv", "libx264"),
        ("ts", "libx264"),
        ("avi", "mpeg4"),
        ("mov", "mjpeg"),
    ):
        _row(f"wide_pixels.{name}", _film(**wide, codec=codec), size=(128, 341), may=SQUARE)
    pal = {"aspect": Fraction(16, 15), "codec": "mpeg2video", "size": (144, 180)}  # 4:3
    _row("pal.mpg", _film(**pal), size=(144, 192), may=SQUARE)
    _row("narrow_pixels.mp4", _film(aspect=Fraction(3, 4)), size=(128, 192), may=SQUARE)
    upright = functools.partial(media_bytes.set_matrix, turn=TURNS["turned_90"])
    turned = _film(**_turned("turned_90"), aspect=Fraction(4, 3))
    _row("wide_pixels_turned.mp4", turned, after=upright, size=(341, 128), may=SQUARE)


def _streams() -> None:
    preview = _film(codec="mjpeg", ticks=tuple(range(4)), tick=Fraction(1), size=(36, 64), default=False)
    film = _film(numbers=tuple(range(100)), default=True)
    two = {"warning": "2 video streams", "shown": 1}
    _row("preview_first.mkv", preview, film, **two)
    _row("preview_first.mp4", preview, film, **two)
    _row("preview_first.mov", preview, film, Sound(0, 4), **two)
    small = _film(size=(64, 128), codec="mpeg2video", numbers=tuple(range(500, 600)))
    _row("larger_second.ts", small, dataclasses.replace(film, default=None), **two)
    _row(
        "larger_second.avi",
        dataclasses.replace(small, codec="mpeg4"),
        dataclasses.replace(film, default=None),
        **two,
    )
    short = _film(ticks=tuple(range(10)), numbers=tuple(range(500, 510)), default=False)
    _row("longer_second.mkv", short, dataclasses.replace(film, default=False), **two)
    _row("default_first.mkv", film, dataclasses.replace(film, default=False), **{**two, "shown": 0})
    off = functools.partial(media_bytes.disable_track, track=0)
    _row(
        "first_disabled.mp4",
        dataclasses.replace(film, numbers=tuple(range(500, 600)), default=None),
        film,
        after=off,
        **two,
    )
    jpeg = COVER.getvalue()
    _row("cover.mkv", _film(), Sound(0, 4), muxing={"cover": jpeg})
    _row("cover.mp4", _film(b_frames=2), after=functools.partial(media_bytes.add_cover, jpeg=jpeg))
    title = {"muxing": {"tags": {"title": "Fahrt uebers Land"}}}
    foreign = functools.partial(
        media_bytes.replace_text, old=b"Fahrt uebers Land", new=b"Fahrt \xfcbers Land "
    )
    for suffix in ("mkv", "mp4", "mov", "avi", "flv"):
        _row(f"foreign_title.{suffix}", _film(), after=foreign, **title)
    _row("foreign_track_title.mkv", _film(title="Fahrt uebers Land"), after=foreign)


# --- animations


def _animation(
    name: str, hundredths: list[int], *, after=None, varying=CONSTANT, warning=None, plain=0, **saving
) -> None:
    """Made by Pillow: each picture stays for so many hundredths of a second."""
    ends = np.cumsum(hundredths)

    def make(path: Path) -> None:
        pictures = [Image.fromarray(paint(k)) for k in range(len(hundredths))]
        pause = [10 * h for h in hundredths]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=pause, **saving)
        if after:
            after(path)

    numbers, seconds = np.arange(len(hundredths)), (ends - hundredths) / 100
    _add(Case(name, make, seconds, numbers, varying=varying, warning=warning, plain=plain))


def _animations() -> None:
    _row("made_by_ffmpeg.gif", _film(codec="gif", ticks=tuple(range(40))))
    _row("made_by_ffmpeg.apng", _film(codec="apng", ticks=tuple(range(60))))
    _row(
        "made_by_ffmpeg.webp",
        _film(codec="libwebp_anim", ticks=tuple(range(40))),
        plain=None,
        muxing={"options": {"loop": "0"}},
    )
    _row("made_by_ffmpeg.avif", _film(codec="libsvtav1", ticks=tuple(range(40))), plain=1)
    even, uneven = [8] * 30, [4] * 30 + [20] * 30
    truth = {"varying": VARYING, "warning": UNEVEN}
    for suffix, plain, saving in (
        ("gif", 0, {"loop": 0}), ("png", 0, {}), ("webp", None, {}), ("avif", 1, {"speed": 8, "quality": 95}),
    ):  # fmt: skip
        _animation(f"even.{suffix}", even, plain=plain, **saving)
        _animation(f"uneven.{suffix}", uneven, plain=plain, **saving, **truth)
    _animation("once.gif", even)  # plays once
    _animation("disposed.gif", even, disposal=2)
    _animation("comment_at_the_end.gif", even, after=media_bytes.add_gif_comment)
    _animation("lossless.webp", even, lossless=True, plain=None)


for _part in (_constant, _variable, _clocks, _packets, _shapes, _streams, _animations):
    _part()


# --- checking the truths


def check(case: Case, path: Path) -> list[str]:
    """What plain PyAV sees other than the truth says."""
    if case.plain is None:
        return []
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
