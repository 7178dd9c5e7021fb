"""Computes the results of a run from its rows: plain values that depend on answers only.

However a run was interrupted, distributed or ordered, the same answers give the same results, byte for byte
as JSON; measured times are separate (`seconds`).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tempo_jax.evaluation import scoring
from tempo_jax.evaluation.annotations import Question
from tempo_jax.evaluation.benchmarks import Benchmark
from tempo_jax.evaluation.rows import UNANSWERED, Row, unanswered
from tempo_jax.evaluation.settings import Setting

STAGES = ("decode", "wait", "vision", "compress", "answer")  # of Row["seconds"]
MEANS = ("tokens_per_frame", "visual_tokens", "frames", "prompt_tokens", "new_tokens")
MAX_EXAMPLES = 5  # unparseable responses that are shown
MAX_WARNINGS = 20

Rows = Mapping[tuple[str, str], Row]


def results(
    benchmark: Benchmark,
    questions: Sequence[Question],
    grid: Sequence[Setting],
    rows: Rows,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Computes everything that a report shows, except times.

    Args:
      benchmark: The benchmark.
      questions: Its questions.
      grid: The settings.
      rows: All rows by key.
      about: Model, annotations, config and code, copied into the results.

    Returns:
      Plain values; accuracies are fractions of the answered questions.
    """
    questions = sorted(questions, key=lambda question: question.id)
    chance = math.fsum(1 / len(q.letters) for q in questions) / len(questions)
    present = [rows[q.id, s.name] for s in grid for q in questions if (q.id, s.name) in rows]
    return {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "questions": len(questions),
        "videos": len({q.video for q in questions}),
        "chance": chance,
        "answers": sum(not unanswered(row) for row in present),
        "unanswered": {kind: sum(unanswered(row) == kind for row in present) for kind in UNANSWERED},
        "complete": len(present) == len(questions) * len(grid),
        **about,
        "settings": [_setting(benchmark, questions, setting, rows) for setting in grid],
        "failures": _by_video(present, "failure"),  # with why: missing, undecodable or refused
        "damaged": _by_video(present, "damage"),
        "warnings": _warnings(present),
    }


def _setting(benchmark, questions: Sequence[Question], setting: Setting, rows: Rows) -> dict[str, Any]:
    present = [(q, rows[q.id, setting.name]) for q in questions if (q.id, setting.name) in rows]
    answered_items = [(q, row) for q, row in present if not unanswered(row)]
    answered = [row for _, row in answered_items]
    unparsable = [row for row in answered if not row["prediction"]]
    guessed = sum(row["right"] for row in unparsable)
    groups = {heading: _groups(answered_items, heading) for heading in benchmark.groups}
    return {
        "setting": setting.name,
        "max_frames": setting.max_frames,
        "strategy": setting.strategy,
        "budget": setting.budget,
        "min_tokens": setting.min_tokens,
        "max_tokens": setting.max_tokens,
        "score": _score(benchmark, answered_items, groups),
        "all": _share(row["right"] for _, row in answered_items),
        "groups": groups,
        "failed": len(present) - len(answered_items),
        **{kind: sum(unanswered(row) == kind for _, row in present) for kind in UNANSWERED},
        "if_wrong": _share(row["right"] for _, row in present),  # unanswered questions count as incorrect
        "unparsable": len(unparsable),
        "unparsable_examples": [row["text"] for row in unparsable[:MAX_EXAMPLES]],
        "random_options_right": guessed if benchmark.random_fallback else None,
        "without_random_options": _share(
            row["right"] and bool(row["prediction"]) for _, row in answered_items
        ),
        "relevance_auc": _mean(row["auc"] for row in answered if row["auc"] is not None),
        **{name: _mean(row[name] for row in answered) for name in MEANS},
    }


def _score(benchmark: Benchmark, asked, groups: Mapping[str, Any]) -> dict[str, Any]:
    """Computes the score of the benchmark."""
    parts = list(groups.get(benchmark.mean_of, {}).values())
    if not parts:
        return {"of": "all questions", **_share(row["right"] for _, row in asked)}
    low, high = scoring.mean_interval([(part["right"], part["questions"]) for part in parts])
    mean = math.fsum(part["accuracy"] for part in parts) / len(parts)
    return {"of": f"mean over {len(parts)} groups of {benchmark.mean_of}", "accuracy": mean} | {
        "low": low, "high": high,
    }  # fmt: skip


def _groups(asked, heading: str) -> dict[str, Any]:
    members = defaultdict(list)
    for question, row in asked:
        for name in question.groups.get(heading, ()):
            members[name].append(row["right"])
    return {name: _share(members[name]) for name in sorted(members, key=_natural_order)}


def _natural_order(name: str) -> tuple[bool, float, str]:
    """Sort key: durations in ascending order, then names."""
    known = {"short": 0.0, "medium": 1.0, "long": 2.0}
    number = float(name) if name.replace(".", "", 1).isdecimal() else known.get(name)
    return number is None, number or 0.0, name


def _share(right: Iterable[bool]) -> dict[str, Any]:
    right = list(right)
    count, total = sum(right), len(right)
    low, high = scoring.wilson(count, total)
    accuracy = count / total if total else None
    return {"questions": total, "right": count, "accuracy": accuracy, "low": low, "high": high}


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return math.fsum(values) / len(values) if values else None


def _by_video(rows: Sequence[Row], field: str) -> list[dict[str, Any]]:
    """Lists the messages about videos, each once, with the number of answers that it concerns."""
    counts: dict[tuple[str, str, str], int] = defaultdict(int)
    for row in rows:
        if row[field]:
            counts[row["video"], row[field], unanswered(row)] += 1
    return [
        {"video": video, "reason": reason, "why": why, "answers": count}
        for (video, reason, why), count in sorted(counts.items())
    ]


def _warnings(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Lists the warnings of answers, the most frequent first."""
    counts = Counter(text for row in rows for text in row["warnings"] if text != row["damage"])
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"warning": text, "answers": count} for text, count in most[:MAX_WARNINGS]]


def seconds(grid: Sequence[Setting], questions: Sequence[Question], rows: Rows) -> dict[str, Any]:
    """Computes seconds per answer of each setting, by stage; None where nothing was answered.

    Decoding and vision of a video are divided among the answers of its decode pass. "decode" is the time of
    the decoder, which worker processes spend in parallel with the device; "wait" is the time the device was
    idle.
    """
    table = {}
    for setting in grid:
        answered = [rows[q.id, setting.name] for q in questions if (q.id, setting.name) in rows]
        times = [row["seconds"] for row in answered if not row["failure"]]
        table[setting.name] = {stage: _mean(time[stage] for time in times) for stage in STAGES}
        table[setting.name]["answers"] = len(times)
    return table
