"""The allocation over the video's time as SVG: every segment a target that seeks the player.

Colours are those of `tempo_jax.plot`. The drawing scales with the page, its letters with the drawing.
"""

import html
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.colors import to_hex

from tempo_jax.plot import HEAT, INK, MAX_TIME_TICKS, RELEVANCE, TIME_STEPS, TOKENS, clock

WIDTH, HEIGHT = 800, 230
LEFT, RIGHT, TOP, STRIP, BOTTOM = 44, 44, 8, 22, 26
FEW = 64  # segments that still get dots and gaps


def heat(share: float) -> str:
    """The colour of a share of the most tokens, in [0, 1]."""
    return to_hex(HEAT(float(share)))


def allocation_svg(segments: Sequence[Any], token_limits: tuple[int, int], player: str) -> str:
    """An <svg> of objects with start_seconds, end_seconds, relevance, tokens; "" for none.

    player: id of the element that holds the <video> to seek.
    """
    if not segments:
        return ""
    begin, end = segments[0].start_seconds, max(segments[-1].end_seconds, segments[-1].start_seconds + 0.05)
    floor, cap = token_limits
    cap = max(cap, max(s.tokens for s in segments))
    lower, bottom = TOP + STRIP + 8, HEIGHT - BOTTOM

    def x(seconds: float) -> float:
        return LEFT + (seconds - begin) / (end - begin) * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return bottom - share * (bottom - lower) / 1.08

    edges = [*(x(s.start_seconds) for s in segments), x(end)]
    parts = [*_axes(begin, end, floor, cap, x, y)]
    steps = f"M{edges[0]:.1f} {y(0):.1f}"
    for left, right, segment in zip(edges, edges[1:], segments):
        level = y(segment.tokens / cap)
        steps += f"L{left:.1f} {level:.1f}L{right:.1f} {level:.1f}"
    steps += f"L{edges[-1]:.1f} {y(0):.1f}"
    parts.append(
        f'<path d="{steps}" fill="{TOKENS}" fill-opacity=".14" stroke="{TOKENS}" stroke-width="1.5"/>'
    )
    middles = [
        ((left + right) / 2, y(segment.relevance))
        for left, right, segment in zip(edges, edges[1:], segments)
        if math.isfinite(segment.relevance)
    ]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in middles)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{RELEVANCE}" stroke-width="1.5"/>')
    if len(segments) <= FEW:
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{RELEVANCE}"/>' for a, b in middles]
    for left, right, segment in zip(edges, edges[1:], segments):
        parts.append(_target(left, right, segment, cap, player, gap=len(segments) <= FEW))
    label = "Tokens and relevance of every segment over time; a click on a segment plays it."
    return (
        f'<svg class="tempo-plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" '
        f'xmlns="http://www.w3.org/2000/svg" font-size="11">{"".join(parts)}</svg>'
    )


def weighed(segment: Any, before: str) -> str:
    """ "" where nothing had to be chosen, and so nothing was weighed."""
    return f"{before}{segment.relevance:.2f}" if math.isfinite(segment.relevance) else ""


def _target(left: float, right: float, segment: Any, cap: int, player: str, gap: bool) -> str:
    """A segment's box in the strip, and an invisible one below it; both are to be clicked."""
    wide = max(right - left - (1 if gap else 0), 0.5)
    said = (
        f"{clock(segment.start_seconds)} to {clock(segment.end_seconds)}: {segment.tokens} tokens"
        f"{weighed(segment, ', relevance ')}"
    )
    height = HEIGHT - TOP - STRIP - BOTTOM
    below = f'x="{left:.1f}" y="{TOP + STRIP}" width="{right - left:.2f}" height="{height}"'
    colour = heat(segment.tokens / cap)
    data = f'data-seconds="{segment.start_seconds:.3f}" data-player="{html.escape(player)}" tabindex="0"'
    return (
        f'<g class="tempo-seek" {data}><title>{said}</title>'
        f'<rect x="{left:.1f}" y="{TOP}" width="{wide:.2f}" height="{STRIP}" fill="{colour}" '
        f'stroke="#9aa5b1" stroke-width=".3"/><rect {below} fill="{INK}" fill-opacity="0"/></g>'
    )


def _axes(begin: float, end: float, floor: int, cap: int, x: Any, y: Any) -> list[str]:
    """Ticks: time below, tokens at the left, relevance at the right; floor and cap dashed."""
    step = next((s for s in TIME_STEPS if (end - begin) / s <= MAX_TIME_TICKS // 2), 28800)
    parts, tick = [], math.ceil(begin / step - 1e-9) * step
    while tick <= end + 1e-9:
        place, name = f"{x(tick):.1f}", clock(tick) if step >= 1 else f"{tick:g}"
        parts.append(_line(place, place, f"{y(0):.1f}", f"{y(0) + 4:.1f}"))
        parts.append(_text(name, f'x="{place}" y="{y(0) + 16:.1f}" text-anchor="middle"'))
        tick += step
    for tokens in (floor, cap):
        level = f"{y(tokens / cap):.1f}"
        parts.append(
            _line(f"{LEFT}", f"{WIDTH - RIGHT}", level, level, 'stroke-dasharray="5 4" opacity=".6"')
        )
        where = f'x="{LEFT - 5}" y="{y(tokens / cap) + 4:.1f}" text-anchor="end"'
        parts.append(_text(str(tokens), where, TOKENS))
    for relevance in (0, 0.5, 1):
        where = f'x="{WIDTH - RIGHT + 5}" y="{y(relevance) + 4:.1f}"'
        parts.append(_text(f"{relevance:g}", where, RELEVANCE))
    middle = (y(0) + y(1)) / 2
    for place, name, colour in ((12, "tokens", TOKENS), (WIDTH - 6, "relevance", RELEVANCE)):
        where = f'transform="translate({place} {middle:.0f}) rotate(-90)" text-anchor="middle"'
        parts.append(_text(name, where, colour))
    return parts


def _line(x1: str, x2: str, y1: str, y2: str, more: str = "") -> str:
    return f'<line x1="{x1}" x2="{x2}" y1="{y1}" y2="{y2}" stroke="currentColor" {more}/>'


def _text(text: str, where: str, colour: str = "currentColor") -> str:
    return f'<text {where} fill="{colour}">{text}</text>'
