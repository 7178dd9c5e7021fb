"""Media files over containers, codecs, constant and varying rates."""

import dataclasses
import functools
from fractions import Fraction

import numpy as np

from tests import media_bytes
from tests.media_case import UNEVEN, VARYING, row
from tests.media_files import Picture, Sound

NTSC = Fraction(1001, 30000)
MS = Fraction(1, 1000)
OPEN_GOP = Picture(options={"x264-params": "open-gop=1"}, b_frames=3)
HEVC_OPEN_GOP = Picture(codec="libx265", gop=30, b_frames=3)
XVID = {"codec": "mpeg4", "tag": "XVID"}


# --- constant rates: containers and codecs


def constant() -> None:
    for suffix in ("mp4", "mov", "mkv", "avi", "flv", "ts", "nut"):
        row(f"h264_b_frames.{suffix}", Picture(b_frames=2))
    row(
        "camcorder.mts",
        Picture(b_frames=2, tick=NTSC),
        muxing={"options": {"mpegts_m2ts_mode": "1"}, "format": "mpegts"},
    )
    row("ntsc.mp4", Picture(tick=NTSC, b_frames=3))
    row("ntsc.mkv", Picture(tick=NTSC))
    row("fast.mp4", Picture(tick=Fraction(1, 120), ticks=tuple(range(240)), gop=60))
    row("slow.mkv", Picture(tick=Fraction(1), ticks=tuple(range(20)), gop=5))
    for suffix in ("mkv", "mp4", "ts"):
        row(f"open_gop.{suffix}", OPEN_GOP)
        row(f"hevc_open_gop.{suffix}", HEVC_OPEN_GOP)
    row("hevc_10_bit.mov", Picture(codec="libx265", pixels="yuv420p10le", tag="hvc1"))
    row("interlaced.ts", Picture(options={"flags": "+ildct+ilme", "x264-params": "tff=1"}, b_frames=2))
    row("odd_sides.mkv", Picture(size=(127, 255), pixels="yuv444p"))
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
        row(name, Picture(codec=codec))
    row("huffyuv.avi", Picture(codec="huffyuv", ticks=tuple(range(20))))
    row("raw.y4m", Picture(codec="rawvideo", ticks=tuple(range(12))))
    row("dnxhr.mov", Picture(codec="dnxhd", options={"profile": "dnxhr_lb"}, ticks=tuple(range(40))))
    row("xvid.avi", Picture(**XVID), Sound(0, 4, "mp2"))
    row("xvid_b_frames.avi", Picture(**XVID, b_frames=2))
    for suffix in ("mkv", "mp4", "nut"):
        row(f"mpeg4_b_frames.{suffix}", Picture(codec="mpeg4", b_frames=2))
    for suffix in ("mpg", "vob"):
        row(f"mpeg2_b_frames.{suffix}", Picture(codec="mpeg2video", b_frames=2), Sound(0, 4, "mp2"))
    row("h263.3gp", Picture(codec="h263", size=(144, 176)), size=(144, 192))  # H.263's pixels are 12:11
    row("mpeg4.3gp", Picture(codec="mpeg4"))
    # Elementary streams: the rate is the codec's own, or else 25.
    row("bare.h264", Picture(b_frames=2))
    row("bare.hevc", Picture(codec="libx265", b_frames=2))
    row("bare.m4v", Picture(codec="mpeg4"))
    row("bare.m2v", Picture(codec="mpeg2video", b_frames=2))
    delimited = Picture(options={"aud": "1"}, b_frames=2)
    row(
        "delimiter_at_the_end.h264",
        delimited,
        after=lambda path: media_bytes.append(path, b"\0\0\0\1\x09\xf0"),
    )
    row("many_gops.mp4", Picture(ticks=tuple(range(1200)), gop=20, b_frames=2))
    row("many_gops.mkv", Picture(ticks=tuple(range(1200)), gop=20))
    row("many_gops.ts", Picture(ticks=tuple(range(1200)), gop=20, b_frames=2))
    row("sparse_keyframes.mkv", Picture(ticks=tuple(range(1000)), gop=400, b_frames=2))
    row("sparse_keyframes.webm", Picture(ticks=tuple(range(1000)), gop=300, codec="libvpx-vp9"))
    row("b_pyramid.mp4", Picture(b_frames=7, options={"x264-params": "b-pyramid=normal:b-adapt=0"}))
    row("negative_offsets.mp4", Picture(b_frames=2), muxing={"options": {"movflags": "negative_cts_offsets"}})
    row("no_edit_list.mp4", Picture(b_frames=2), muxing={"options": {"use_editlist": "0"}})
    row("index_first.mp4", Picture(b_frames=2), muxing={"options": {"movflags": "faststart"}})
    row("timecode.mov", Picture(), muxing={"tags": {"timecode": "01:00:00:00"}})
    row("no_suffix", Picture(), muxing={"format": "mp4"})
    row("one_picture.mp4", Picture(ticks=(0,)))
    row("two_pictures.mkv", Picture(ticks=(0, 1)))
    junk = functools.partial(media_bytes.prepend, head=b"\x12" * 100)
    row("junk_before.ts", Picture(b_frames=2), after=junk, may=".")
    for suffix, codec in (("mkv", "libx264"), ("webm", "libvpx"), ("flv", "libx264")):
        sixty = Picture(codec=codec, tick=Fraction(1, 60), ticks=tuple(range(150)))
        row(f"sixty.{suffix}", sixty)
    for suffix in ("mkv", "flv"):
        row(f"wrong_rate.{suffix}", Picture(rate=Fraction(50)))
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    row("fragmented.mp4", Picture(b_frames=2), muxing={"options": fragments})
    every = {"movflags": "frag_every_frame+empty_moov"}
    row("fragment_each_frame.mp4", Picture(), Sound(0, 4, "aac"), muxing={"options": every}, slack=0.03)
    for suffix, format, codec in (
        ("mkv", "matroska", "libx264"),
        ("webm", "webm", "libvpx"),
        ("flv", "flv", "libx264"),
    ):
        row(f"live.{suffix}", Picture(codec=codec), muxing={"live": True, "format": format})


def long() -> None:
    """Files with many keyframes, for seeks."""
    many = {"ticks": tuple(range(400))}
    for suffix in ("mkv", "mp4", "ts"):
        row(f"open_gop_long.{suffix}", dataclasses.replace(OPEN_GOP, **many, gop=33))
        row(f"hevc_open_gop_long.{suffix}", dataclasses.replace(HEVC_OPEN_GOP, **many))
        refresh = Picture(**many, gop=50, options={"x264-params": "intra-refresh=1"})
        row(f"intra_refresh.{suffix}", refresh)
    for name, codec, b_frames in (
        ("vp8_long.webm", "libvpx", 0),
        ("vp8_long.ogv", "libvpx", 0),
        ("vp9_long.mp4", "libvpx-vp9", 0),
        ("av1_long.mkv", "libsvtav1", 0),
        ("av1_long.mp4", "libsvtav1", 0),
        ("h264_long.flv", "libx264", 2),
        ("h264_long.avi", "libx264", 2),
        ("bare_long.h264", "libx264", 2),
        ("mpeg4_long.avi", "mpeg4", 2),
        ("mpeg4_long.mkv", "mpeg4", 2),
        ("mpeg2_long.mpg", "mpeg2video", 2),
        ("mpeg2_long.ts", "mpeg2video", 2),
        ("mpeg2_long.mxf", "mpeg2video", 2),
        ("wmv2_long.wmv", "wmv2", 0),
    ):
        row(name, Picture(**many, codec=codec, b_frames=b_frames, gop=25))
    lookahead = {"deadline": "good", "cpu-used": "5", "lag-in-frames": "16", "auto-alt-ref": "1"}
    row("superframes_long.webm", Picture(**many, codec="libvpx-vp9", options=lookahead, gop=64))


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


def variable() -> None:
    uneven = {"ticks": UNEVEN_TICKS, "tick": Fraction(1, 30), "rate": Fraction(30)}
    truth = {"varying": VARYING, "warning": UNEVEN}
    for name, codec in (
        ("mp4", "libx264"), ("mov", "libx264"), ("mkv", "libx264"), ("flv", "libx264"), ("ts", "libx264"),
        ("nut", "mpeg4"), ("webm", "libvpx"), ("asf", "wmv2"), ("avi", "mpeg4"), ("3gp", "mpeg4"),
    ):  # fmt: skip
        row(f"uneven.{name}", Picture(**uneven, codec=codec), **truth)
    row("uneven_b_frames.mp4", Picture(**uneven, b_frames=2), Sound(0, 14, "aac"), **truth)
    row("uneven_hevc.mkv", Picture(**uneven, codec="libx265", b_frames=3), **truth)
    row("uneven_av1.mp4", Picture(**uneven, codec="libsvtav1"), **truth)
    row("uneven_vp9.webm", Picture(**uneven, codec="libvpx-vp9"), **truth)
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    row("uneven_fragments.mp4", Picture(**uneven), muxing={"options": fragments}, **truth)
    row("uneven_live.mkv", Picture(**uneven), muxing={"live": True, "format": "matroska"}, **truth)
    phone = Picture(ticks=PHONE_TICKS, tick=MS, rate=Fraction(30), gop=30)
    row("phone_at_dusk.mp4", phone, **truth)
    row("phone_at_dusk.mov", dataclasses.replace(phone, codec="libx265", tag="hvc1"), **truth)
    screen = Picture(ticks=_screen_ticks(), tick=Fraction(1, 30), rate=Fraction(30), gop=250)
    row("screen_recording.mkv", screen, **truth)
    row("screen_recording.mp4", screen, **truth)
    # Film shown on television: two and three sixtieths in turn.
    pulldown = tuple(int(t) for t in np.cumsum([0] + [2, 3] * 60))
    row("pulldown.mkv", Picture(ticks=pulldown, tick=Fraction(1, 60), rate=Fraction(24)))
    row("pulldown.mp4", Picture(ticks=pulldown, tick=Fraction(1, 60), rate=Fraction(24), b_frames=2))
    row("two_far_apart.mp4", Picture(ticks=(0, 600), rate=Fraction(25)))
    for suffix in ("mkv", "mp4", "flv"):
        row(f"jitter.{suffix}", Picture(ticks=_jitter_ticks(), tick=MS, rate=Fraction(25)))
