"""A few SVG shapes, enough for the diagrams of the docs; plain text, so that a diff shows what changed."""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

COLORS = ("#4878a8", "#e49444", "#85b6b2", "#d1615d", "#a87c9f", "#6a9f58")
INK = "#333333"
FONT = "font-family='system-ui, sans-serif'"


class Canvas:
    """Collects shapes and renders them on a white ground, which reads in light and dark pages."""

    def __init__(self, width: int, height: int, title: str):
        self.width, self.height, self.title = width, height, title
        self.shapes: list[str] = []

    def text(
        self, x: float, y: float, text: str, size: int = 13, anchor: str = "middle", color: str = INK
    ) -> None:
        """Draws one line of text per line of `text`, centered on the line's first baseline."""
        for index, line in enumerate(text.split("\n")):
            self.shapes.append(
                f"<text x='{x:g}' y='{y + index * size * 1.3:g}' font-size='{size}' text-anchor='{anchor}' "
                f"fill='{color}' {FONT}>{escape(line)}</text>"
            )

    def box(
        self, x: float, y: float, width: float, height: float, text: str = "", color: str = "#eef3f8"
    ) -> None:
        """Draws a rectangle with text in its middle."""
        self.shapes.append(
            f"<rect x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}' rx='4' fill='{color}' "
            f"stroke='{INK}'/>"
        )
        if text:
            lines = text.count("\n")
            self.text(x + width / 2, y + height / 2 + 4.5 - lines * 8.5, text)

    def bar(self, x: float, y: float, width: float, height: float, color: str) -> None:
        """Draws a filled rectangle without an outline."""
        self.shapes.append(
            f"<rect x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}' fill='{color}'/>"
        )

    def arrow(self, *points: tuple[float, float]) -> None:
        """Draws a line through the points with a head at the last one."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.shapes.append(f"<polyline points='{path}' fill='none' stroke='{INK}' marker-end='url(#head)'/>")

    def render(self) -> str:
        """Returns the SVG document."""
        head = (
            "<defs><marker id='head' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='7' markerHeight='7' "
            f"orient='auto'><path d='M0,0 L10,5 L0,10 z' fill='{INK}'/></marker></defs>"
        )
        ground = f"<rect width='{self.width}' height='{self.height}' fill='#ffffff'/>"
        lines = [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {self.width} {self.height}' "
            f"width='{self.width}' "
            f"role='img' aria-label='{escape(self.title)}'>",
            f"<title>{escape(self.title)}</title>",
            head,
            ground,
            *self.shapes,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"


def stacked_bars(title: str, parts: Sequence[str], bars: Mapping[str, Sequence[float]]) -> str:
    """Renders horizontal stacked bars.

    Args:
      title: Title of the figure, with the unit.
      parts: Names of the parts of a bar, in order.
      bars: For each bar's label the sizes of its parts.

    Returns:
      An SVG document.
    """
    height, left, width = 22, 150, 560
    canvas = Canvas(left + width + 70, 70 + height * max(len(bars), 1), title)
    canvas.text(left, 20, title, 14, "start")
    x = left
    for part, color in zip(parts, COLORS, strict=False):
        canvas.bar(x, 34, 10, 10, color)
        canvas.text(x + 15, 43, part, 12, "start")
        x += 34 + 7 * len(part)
    longest = max((sum(sizes) for sizes in bars.values()), default=1)
    for row, (label, sizes) in enumerate(bars.items()):
        y = 58 + row * height
        canvas.text(left - 8, y + 13, label, 12, "end")
        x = left
        for size, color in zip(sizes, COLORS, strict=False):
            canvas.bar(x, y, size / longest * width, height - 6, color)
            x += size / longest * width
        canvas.text(x + 6, y + 13, f"{sum(sizes):.2f}", 12, "start")
    return canvas.render()
