"""Writes the results of a run: report.json, report.md and, for several settings, accuracy.png."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tempo_jax.evaluation import figure, published
from tempo_jax.evaluation.results import STAGES
from tempo_jax.evaluation.rows import MISSING, REFUSED, UNDECODABLE
from tempo_jax.utils import paths
from tempo_jax.utils.paths import AnyPath
from tempo_jax.utils.text import count

LOST = {MISSING: "videos missing", UNDECODABLE: "videos not decodable", REFUSED: "questions refused"}
SECONDS_HEADING = "## Seconds per answer"  # nothing above this line depends on the machine's speed


def write(
    workdir: AnyPath,
    results: dict[str, Any],
    seconds: dict[str, Any],
    with_published: bool,
    hosts: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes all files; only seconds and hosts depend on the process that writes."""
    values = {"results": results, "seconds": seconds, "hosts": list(hosts)}
    text = json.dumps(values, ensure_ascii=False, indent=1, allow_nan=False)
    paths.write_text(workdir / "report.json", text + "\n")
    paths.write_text(workdir / "report.md", markdown(results, seconds, with_published, hosts))
    if figure.worth_drawing(results):
        with paths.staged(workdir) as place:
            figure.draw(results, place / "accuracy.png")


def lost(unanswered: Mapping[str, int]) -> str:
    """Summarizes unanswered questions: "2 answers (videos missing), …"; "" where there are none."""
    return ", ".join(f"{count(n, 'answer')} ({LOST[kind]})" for kind, n in unanswered.items() if n)


def markdown(
    results: Mapping[str, Any],
    seconds: Mapping[str, Any],
    with_published: bool,
    hosts: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Formats the report as Markdown."""
    return "\n".join(
        [
            *_head(results),
            *_main_table(results, with_published),
            *_notes(results),
            *_groups(results),
            *_settings(results),
            *_seconds(seconds),
            *_hosts(hosts),
        ]
    )


def _head(results: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {results['title']}"
    yield ""
    total = results["questions"] * len(results["settings"])
    if not results["complete"]:
        yield f"**Incomplete: {results['answers']} of {total} answers.** Rerun the same command to resume."
        yield ""
    if summary := lost(results["unanswered"]):
        yield f"**Not answered: {summary}.** No accuracy on this page counts them but *if incorrect*."
        yield ""
    yield (
        f"{count(results['questions'], 'question')} about {count(results['videos'], 'video')}; model "
        f"{results['model']['fingerprint']}; chance {percent(results['chance'])} %."
    )
    yield ""


def _main_table(results: Mapping[str, Any], with_published: bool) -> Iterator[str]:
    yield "| | frames | budget | accuracy, % | 95 % | tokens per frame | visual tokens |"
    yield "|---|---|---|---|---|---|---|"
    for row in results["settings"]:
        score = row["score"]
        yield _line(
            f"**measured**: {row['setting']}", row["max_frames"], row["budget"], percent(score["accuracy"]),
            _interval(score), _number(row["tokens_per_frame"], 2), _number(row["visual_tokens"], 0),
        )  # fmt: skip
    for row in published.rows(results["benchmark"]) if with_published else ():
        name = f"*published, not measured*: {row.system}" + (f", {row.group} only" if row.group else "")
        tokens = None if row.tokens_per_frame is None else f"{row.tokens_per_frame:g}"
        yield _line(name, row.max_frames or None, row.budget, f"{row.accuracy:.1f}", None, tokens, None)
    yield ""
    yield f"Accuracy: {results['settings'][0]['score']['of']} that were answered."
    yield ""


def _notes(results: Mapping[str, Any]) -> Iterator[str]:
    yield "| setting | correct | unparseable responses | not answered | if incorrect, % | relevance AUC |"
    yield "|---|---|---|---|---|---|"
    for row in results["settings"]:
        correct = f"{row['all']['right']}/{row['all']['questions']}"
        unparseable = str(row["unparsable"])
        if row["random_options_right"] is not None:
            unparseable += (
                f", {row['random_options_right']} correct by a random option; counted as incorrect: "
                f"{percent(row['without_random_options']['accuracy'])} %"
            )
        if_incorrect = percent(row["if_wrong"]["accuracy"]) if row["failed"] else None
        auc = _number(row["relevance_auc"], 3)
        yield _line(row["setting"], correct, unparseable, row["failed"], if_incorrect, auc)
    yield ""
    examples = [text for row in results["settings"] for text in row["unparsable_examples"]]
    if examples:
        shown = ", ".join(_quoted(text) for text in dict.fromkeys(examples))
        yield f"Unparseable responses, for example: {shown}."
        yield ""
    lists = [
        (title, [bad for bad in results["failures"] if bad["why"] == why]) for why, title in LOST.items()
    ]
    for heading, listed in (*lists, ("answered, but damaged", results["damaged"])):
        if listed:
            yield f"{heading.capitalize()}:"
            yield ""
            yield from (f"* {bad['video']} ({bad['answers']}): {bad['reason']}" for bad in listed)
            yield ""
    if results["warnings"]:
        yield "Warnings of answers:"
        yield ""
        yield from (f"* {row['warning']} ({row['answers']})" for row in results["warnings"])
        yield ""


def _groups(results: Mapping[str, Any]) -> Iterator[str]:
    settings = results["settings"]
    for heading in settings[0]["groups"]:
        names = list(dict.fromkeys(name for row in settings for name in row["groups"][heading]))
        if not names:
            continue
        yield f"## By {heading}"
        yield ""
        yield _line(heading, "questions", *(row["setting"] for row in settings))
        yield "|---" * (2 + len(settings)) + "|"
        for name in names:
            parts = [row["groups"][heading].get(name) for row in settings]
            cells = [f"{percent(part['accuracy'])} ({_interval(part)})" if part else None for part in parts]
            yield _line(name, next(part["questions"] for part in parts if part), *cells)
        yield ""


def _settings(results: Mapping[str, Any]) -> Iterator[str]:
    yield "## What was run"
    yield ""
    for name in ("model", "annotations"):
        yield f"* {name}: `{json.dumps(results[name], ensure_ascii=False, sort_keys=True)}`"
    yield f"* code: {results['code']}"
    yield from (f"* {name}: {'-' if value == '' else value}" for name, value in results["config"].items())
    yield ""


def _seconds(seconds: Mapping[str, Any]) -> Iterator[str]:
    yield SECONDS_HEADING
    yield ""
    yield _line("setting", *STAGES)
    yield "|---" * (1 + len(STAGES)) + "|"
    for setting, times in seconds.items():
        yield _line(setting, *(_number(times[stage], 3) for stage in STAGES))
    yield ""
    yield (
        "decode and vision: the time of a video, divided by its answers. decode is the time of the decoders; "
        "wait is the part of it for which the device was idle."
    )
    yield ""


def _hosts(hosts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if len(hosts) < 2:
        return
    yield "## Hosts"
    yield ""
    yield _line(
        "process", "host", "starts", "videos", "answers", "answers per minute", "at work, s",
        "waited for frames, s", "waited for the last one, s",
    )  # fmt: skip
    yield "|---" * 9 + "|"
    for row in hosts:
        waited = _number(row["waited_at_the_end"], 1) if row["ended"] else "not done"
        yield _line(
            row["process"], row["host"], row["starts"], row["videos"], row["answers"],
            _number(row["answers_per_minute"], 2), _number(row["seconds"], 1),
            _number(row["waited_for_frames"], 1), waited,
        )  # fmt: skip
    yield ""


def _line(*cells: Any) -> str:
    return "| " + " | ".join("-" if cell is None else str(cell).replace("|", "\\|") for cell in cells) + " |"


def percent(share: float | None) -> str:
    """Formats 0.7 as 70.0."""
    return "-" if share is None else f"{100 * share:.1f}"


def _interval(score: Mapping[str, Any]) -> str:
    return f"{100 * score['low']:.1f} to {100 * score['high']:.1f}"


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _quoted(text: str) -> str:
    return "`" + " ".join(text.replace("`", "'").split())[:60] + "`" if text.strip() else "(nothing)"


def table(results: Mapping[str, Any]) -> list[str]:
    """Returns the lines that a finished run prints."""
    lines = []
    for row in results["settings"]:
        score, tokens = row["score"], row["tokens_per_frame"]
        lines.append(
            f"{row['setting']}: {percent(score['accuracy'])} % ({_interval(score)}), "
            f"{'-' if tokens is None else format(tokens, '.2f')} tokens per frame, "
            f"{row['unparsable']} unparseable, {row['failed']} not answered"
        )
    return lines
