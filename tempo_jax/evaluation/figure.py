"""The figure of a grid: accuracy over visual tokens per frame, a line for each strategy."""

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MARKERS = "osD^vP*Xph"


def worth_drawing(results: Mapping[str, Any]) -> bool:
    """Returns whether there are several settings to compare."""
    return sum(row["tokens_per_frame"] is not None for row in results["settings"]) > 1


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Draws into `path` (.png); bars are 95 % intervals, the dotted line is chance."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(_lines(results).items()):
        tokens, accuracy, below, above = zip(*sorted(points))
        axes.errorbar(
            tokens, accuracy, yerr=(below, above), label=name, marker=MARKERS[number % len(MARKERS)],
            markersize=5, linewidth=1.4, elinewidth=0.6, capsize=2,
        )  # fmt: skip
    chance = 100 * results["chance"]
    axes.axhline(chance, color="grey", linewidth=0.8, linestyle=":")
    axes.text(0.99, chance + 0.7, "chance", color="grey", ha="right", transform=axes.get_yaxis_transform())
    axes.set_xlabel("visual tokens per frame")
    axes.set_ylabel(f"{results['title']}: accuracy, %")
    axes.set_ylim(0, 104)
    figure.legend(fontsize=8, loc="outside right upper")
    fresh = path.with_name(f".{os.getpid()}.{path.name}")
    figure.savefig(fresh)
    fresh.replace(path)


def _lines(results: Mapping[str, Any]) -> dict[str, list[tuple[float, float, float, float]]]:
    """Returns {label: (tokens per frame, accuracy, distances to the interval's ends)}, in percent."""
    frames = {row["max_frames"] for row in results["settings"]}
    limits = {(row["min_tokens"], row["max_tokens"]) for row in results["settings"]}
    lines = defaultdict(list)
    for row in results["settings"]:
        score = row["score"]
        if row["tokens_per_frame"] is None or score["accuracy"] is None:
            continue
        label = {"none": "no compression"}.get(row["strategy"], row["strategy"])
        label += f", {row['max_frames']} frames" if len(frames) > 1 else ""
        if len(limits) > 1:
            label += f", {row['min_tokens']} to {row['max_tokens'] or 'all'}"
        accuracy, low, high = (100 * score[name] for name in ("accuracy", "low", "high"))
        below, above = max(0.0, accuracy - low), max(0.0, high - accuracy)
        lines[label].append((row["tokens_per_frame"], accuracy, below, above))
    return lines
