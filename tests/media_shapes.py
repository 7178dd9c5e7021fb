"""Media files that are turned, stretched, of several streams, with foreign tags; animations."""

import dataclasses
import functools
import io
from fractions import Fraction

from PIL import Image

from tests import media_bytes
from tests.media_case import SQUARE, UNEVEN, VARYING, animation, row
from tests.media_files import TURNS, Picture, Sound, paint

# --- orientation, shape, streams, tags

COVER = io.BytesIO()
Image.fromarray(paint(9999, 300, 300)).save(COVER, "JPEG")


def _turned(turn: str) -> dict:
    size = (128, 256) if TURNS[turn][0] else (256, 128)
    return {"size": size, "turn": TURNS[turn], "b_frames": 2, "ticks": tuple(range(60))}


def shapes() -> None:
    for turn in TURNS:
        if turn != "upright":
            matrix = functools.partial(media_bytes.set_matrix, turn=TURNS[turn])
            row(f"{turn}.mp4", Picture(**_turned(turn)), after=matrix)
    for turn in ("mirrored", "turned_90"):
        matrix = functools.partial(media_bytes.set_matrix, turn=TURNS[turn])
        row(f"{turn}.mov", Picture(**_turned(turn), codec="libx265", tag="hvc1"), after=matrix)
    sei = "h264_metadata=display_orientation=insert"
    row("turned_by_message.ts", Picture(**_turned("turned_270"), gop=100, filter=f"{sei}:rotate=90"))
    row("mirrored_by_message.ts", Picture(**_turned("mirrored"), gop=100, filter=f"{sei}:flip=horizontal"))
    wide = {"aspect": Fraction(4, 3), "size": (128, 256)}
    for name, codec in (
        ("mp4", "libx264"),
        ("mkv", "libx264"),
        ("ts", "libx264"),
        ("avi", "mpeg4"),
        ("mov", "mjpeg"),
    ):
        row(f"wide_pixels.{name}", Picture(**wide, codec=codec), size=(128, 341), may=SQUARE)
    pal = {"aspect": Fraction(16, 15), "codec": "mpeg2video", "size": (144, 180)}  # 4:3
    row("pal.mpg", Picture(**pal), size=(144, 192), may=SQUARE)
    row("narrow_pixels.mp4", Picture(aspect=Fraction(3, 4)), size=(128, 192), may=SQUARE)
    upright = functools.partial(media_bytes.set_matrix, turn=TURNS["turned_90"])
    turned = Picture(**_turned("turned_90"), aspect=Fraction(4, 3))
    row("wide_pixels_turned.mp4", turned, after=upright, size=(341, 128), may=SQUARE)


def streams() -> None:
    preview = Picture(codec="mjpeg", ticks=tuple(range(4)), tick=Fraction(1), size=(36, 64), default=False)
    film = Picture(numbers=tuple(range(100)), default=True)
    two = {"warning": "2 video streams", "shown": 1}
    row("preview_first.mkv", preview, film, **two)
    row("preview_first.mp4", preview, film, **two)
    row("preview_first.mov", preview, film, Sound(0, 4), **two)
    small = Picture(size=(64, 128), codec="mpeg2video", numbers=tuple(range(500, 600)))
    row("larger_second.ts", small, dataclasses.replace(film, default=None), **two)
    row(
        "larger_second.avi",
        dataclasses.replace(small, codec="mpeg4"),
        dataclasses.replace(film, default=None),
        **two,
    )
    short = Picture(ticks=tuple(range(10)), numbers=tuple(range(500, 510)), default=False)
    row("longer_second.mkv", short, dataclasses.replace(film, default=False), **two)
    row("default_first.mkv", film, dataclasses.replace(film, default=False), **{**two, "shown": 0})
    off = functools.partial(media_bytes.disable_track, track=0)
    row(
        "first_disabled.mp4",
        dataclasses.replace(film, numbers=tuple(range(500, 600)), default=None),
        film,
        after=off,
        **two,
    )
    jpeg = COVER.getvalue()
    row("cover.mkv", Picture(), Sound(0, 4), muxing={"cover": jpeg})
    row("cover.mp4", Picture(b_frames=2), after=functools.partial(media_bytes.add_cover, jpeg=jpeg))
    title = {"muxing": {"tags": {"title": "Fahrt uebers Land"}}}
    foreign = functools.partial(
        media_bytes.replace_text, old=b"Fahrt uebers Land", new=b"Fahrt \xfcbers Land "
    )
    for suffix in ("mkv", "mp4", "mov", "avi", "flv"):
        row(f"foreign_title.{suffix}", Picture(), after=foreign, **title)
    row("foreign_track_title.mkv", Picture(title="Fahrt uebers Land"), after=foreign)


# --- animations


def animations() -> None:
    row("made_by_ffmpeg.gif", Picture(codec="gif", ticks=tuple(range(40))))
    row("made_by_ffmpeg.apng", Picture(codec="apng", ticks=tuple(range(60))))
    row(
        "made_by_ffmpeg.webp",
        Picture(codec="libwebp_anim", ticks=tuple(range(40))),
        plain=None,
        muxing={"options": {"loop": "0"}},
    )
    row("made_by_ffmpeg.avif", Picture(codec="libsvtav1", ticks=tuple(range(40))), plain=1)
    even, uneven = [8] * 30, [4] * 30 + [20] * 30
    truth = {"varying": VARYING, "warning": UNEVEN}
    for suffix, plain, saving in (
        ("gif", 0, {"loop": 0}), ("png", 0, {}), ("webp", None, {}), ("avif", 1, {"speed": 8, "quality": 95}),
    ):  # fmt: skip
        animation(f"even.{suffix}", even, plain=plain, **saving)
        animation(f"uneven.{suffix}", uneven, plain=plain, **saving, **truth)
    animation("once.gif", even)  # plays once
    animation("disposed.gif", even, disposal=2)
    # Players give a picture without a delay a tenth of a second.
    animation("no_delays.gif", [10] * 20, written=[0] * 20)
    animation("comment_at_the_end.gif", even, after=media_bytes.add_gif_comment)
    animation("picture_before.png", even, before=True)
    animation("lossless.webp", even, lossless=True, plain=None)
