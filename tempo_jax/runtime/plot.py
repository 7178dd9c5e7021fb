"""Plots the token allocation of an answer over the video's time.

Matplotlib's object interface on the Agg canvas only: no pyplot, no global state, no display.
"""

import math
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import font_manager, ft2font
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from tempo_jax.errors import TempoError
from tempo_jax.utils import paths

FORMATS = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")

DPI = 100
INK = "#333333"
TOKENS = "#1d4e89"
RELEVANCE = "#d1600f"
# From pale (few tokens) to dark (many), so that it is also readable in grayscale.
HEAT = LinearSegmentedColormap.from_list("tempo", ["#eef4fb", "#9cc3e6", "#3f7fbf", "#b0306a", "#5e0b2b"])
TITLE_WIDTH = 0.62  # of the figure
TIME_STEPS = (
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400,
)  # fmt: skip
MAX_TIME_TICKS = 14


def check_path(path: str | Path) -> Path:
    """Returns `path` as a Path.

    Raises:
      TempoError: No plot can be written there.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        ending = f"ends in {path.suffix}" if path.suffix else "has no file ending"
        raise TempoError(f"The plot {path} {ending}; use one of {', '.join(FORMATS)}.")
    if paths.url(path):
        return paths.path("the plot", path)
    if os.path.isdir(path):
        raise TempoError(f"The plot {path} is a folder; name a file in it.")
    if not os.path.isdir(path.parent):
        raise TempoError(f"The plot's folder {path.parent} does not exist; create it first.")
    return path


def plot_allocation(
    segments: Sequence,
    path: str | Path,
    *,
    title: str | None = None,
    floor: int = 4,
    cap: int = 128,
    size: tuple[int, int] = (1600, 400),
) -> None:
    """Plots tokens and relevance of every segment over the video's time.

    Args:
      segments: Objects with start_seconds, end_seconds, relevance in [0, 1] and tokens; in time order.
      path: File to write, with an ending in FORMATS.
      title: Title of the figure.
      floor: Minimum number of tokens of a segment, drawn as a dashed line.
      cap: Maximum number of tokens of a segment, drawn as a dashed line.
      size: Width and height in pixels (a vector file has the same proportions).

    Raises:
      TempoError: There are no segments (an image), or the file cannot be written.
    """
    path = check_path(path)
    if not segments:
        raise TempoError("There is nothing to plot: an image's tokens are not spread over segments of time.")
    edges_s, tokens, relevance = _series(segments)
    cap = max(cap, int(tokens.max()))

    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2, 1, height_ratios=(1, 6), left=0.066, right=0.945, bottom=0.2, top=0.88, hspace=0.07
    )
    strip = figure.add_subplot(grid[0])
    _draw_strip(strip, edges_s, tokens, cap)
    lower = figure.add_subplot(grid[1], sharex=strip)
    _draw_tokens(lower, edges_s, tokens, floor, cap)
    _draw_relevance(lower.twinx(), edges_s, relevance)
    _draw_time_axis(lower, edges_s)
    _draw_header(figure, title, tokens)
    try:
        figure.savefig(path, dpi=DPI)
    except OSError as error:
        raise TempoError(f"The plot {path} could not be written: {error.strerror or error}.") from error


def _series(segments: Sequence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges in seconds [S+1], tokens [S], relevance [S]. Segments follow each other without gaps."""
    starts = [float(s.start_seconds) for s in segments]
    # A single frame may have no duration; it still needs a width to be visible.
    end = max(float(segments[-1].end_seconds), starts[-1] + 0.05)
    tokens = np.array([int(s.tokens) for s in segments])
    relevance = np.array([float(s.relevance) for s in segments])
    return np.array([*starts, end]), tokens, relevance


def _draw_strip(axes: Axes, edges_s: np.ndarray, tokens: np.ndarray, cap: int) -> None:
    """The heat strip: one colored box per segment."""
    few = len(tokens) <= 64  # white gaps between segments, where there is space for them
    axes.pcolormesh(
        edges_s, [0, 1], tokens[None], cmap=HEAT, vmin=0, vmax=cap,
        edgecolors="white" if few else "none", linewidth=0.8 if few else 0,
    )  # fmt: skip
    axes.set_yticks([])
    axes.tick_params(bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_xlim(edges_s[0], edges_s[-1])


def _draw_tokens(axes: Axes, edges_s: np.ndarray, tokens: np.ndarray, floor: int, cap: int) -> None:
    """Tokens per segment as steps, floor and cap as dashed lines named on the axis."""
    axes.stairs(tokens, edges_s, fill=True, color=TOKENS, alpha=0.13)
    axes.stairs(tokens, edges_s, baseline=None, color=TOKENS, linewidth=1.8, zorder=3)
    for limit in (floor, cap):
        axes.axhline(limit, color=INK, linestyle=(0, (5, 4)), linewidth=0.9, alpha=0.75)
    # Ticks between the limits whose labels do not overlap with those of the limits.
    between = [round(cap * k / 4) for k in (1, 2, 3) if floor + 0.12 * cap < cap * k / 4]
    names = {floor: f"floor {floor}", cap: f"cap {cap}"}
    ticks = sorted({floor, cap, *between})
    axes.set_yticks(ticks, [names.get(tick, str(tick)) for tick in ticks])
    axes.set_ylim(0, cap * 1.08)
    axes.set_ylabel("tokens per segment", color=TOKENS, fontsize=11)
    axes.tick_params(axis="y", colors=TOKENS, labelsize=10)
    axes.tick_params(axis="x", colors=INK, labelsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_relevance(axes: Axes, edges_s: np.ndarray, relevance: np.ndarray) -> None:
    """Relevance at the middle of each segment, on an axis of its own from 0 to 1."""
    marker = "o" if len(relevance) <= 64 else None
    middles = (edges_s[:-1] + edges_s[1:]) / 2
    axes.plot(middles, relevance, color=RELEVANCE, linewidth=1.3, marker=marker, markersize=4, clip_on=False)
    axes.set_ylim(0, 1.08)  # so that 1 is level with the maximum of tokens
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_ylabel("relevance", color=RELEVANCE, fontsize=11)
    axes.tick_params(axis="y", colors=RELEVANCE, labelsize=10)
    axes.spines[["top", "left"]].set_visible(False)


def _draw_time_axis(axes: Axes, edges_s: np.ndarray) -> None:
    """Ticks in seconds, with the clock reading under them once a video is longer than two minutes."""
    start, end = float(edges_s[0]), float(edges_s[-1])
    step = next((s for s in TIME_STEPS if (end - start) / s <= MAX_TIME_TICKS), 28800)
    first, last = math.ceil(start / step - 1e-9), math.floor(end / step + 1e-9)
    ticks = [k * step for k in range(first, last + 1)]
    long = end > 120
    labels = [f"{tick:.10g}" + (f"\n{clock(tick)}" if long else "") for tick in ticks]
    axes.set_xticks(ticks, labels)
    unit = "time in seconds" + (f", {'h:mm:ss' if end >= 3600 else 'm:ss'} below" if long else "")
    axes.set_xlabel(unit, color=INK, fontsize=11)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _draw_header(figure: Figure, title: str | None, tokens: np.ndarray) -> None:
    """The title on the left and the totals on the right, on one line above the strip."""
    count = len(tokens)
    total = f"{tokens.sum():,} tokens in {count} segment{'s' if count > 1 else ''}"
    figure.text(0.945, 0.925, total, ha="right", color=INK, fontsize=11)
    if title and title.strip():
        families, text = drawable(title)
        # parse_math: a question about $5 is not a formula.
        drawn = figure.text(0.066, 0.925, text, color=INK, fontsize=12, family=families, parse_math=False)
        max_width = TITLE_WIDTH * figure.bbox.width
        while drawn.get_window_extent().width > max_width and len(text) > 2:
            text = text[: max(2, int(len(text) * 0.95)) - 1].rstrip(" …") + "…"
            drawn.set_text(text)


def drawable(title: str) -> tuple[list[str], str]:
    """Returns fonts for `title`, and the title as they can draw it, on one line.

    Characters that no installed font has become "·" instead of boxes and warnings; if they are most of the
    title, it is replaced by a note.
    """
    text = " ".join(unicodedata.normalize("NFC", title).split())
    families, known = ["DejaVu Sans"], _characters(font_manager.findfont("DejaVu Sans"))
    missing = {c for c in text if ord(c) not in known}
    for entry in font_manager.fontManager.ttflist if missing else ():
        # "Last Resort" is matplotlib's own font of boxes: it has a glyph for everything.
        if entry.name in families or entry.style != "normal" or "Last Resort" in entry.name:
            continue
        covered = missing & {chr(c) for c in _characters(entry.fname)}
        if covered:
            families.append(entry.name)
            missing -= covered
        if not missing:
            break
    if sum(c in missing for c in text) > len(text) / 2:
        return families[:1], "(no installed font can draw the question)"
    return families, "".join("·" if c in missing else c for c in text)


def _characters(font_file: str) -> set[int]:
    """Code points that a font file has glyphs for; none for a file that cannot be read."""
    try:
        return set(ft2font.FT2Font(font_file).get_charmap())
    except (OSError, RuntimeError):
        return set()
