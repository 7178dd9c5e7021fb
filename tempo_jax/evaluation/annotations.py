"""A downloaded benchmark's annotation files to checked questions.

What is wrong in them is one TempoError that names the file and the question: a benchmark that is
misread gives numbers that look like any others.
"""

import dataclasses
import fnmatch
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import parquet

from tempo_jax.errors import TempoError
from tempo_jax.evaluation import subtitles
from tempo_jax.evaluation.benchmarks import Benchmark
from tempo_jax.utils import paths
from tempo_jax.utils.text import clean_text

OPTION = re.compile(r"\(([A-E])\)\s*(.+)")  # a line of a question that is one of its options
NOT_OFFERED = "N/A"  # stands in LongVideoBench's option columns where there are fewer than five


@dataclasses.dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    video: its name as annotated, always below the folder of videos. also: what else it may be called.
    letters: of the options offered.
    options: their texts; empty where the prompt has them already. groups: heading -> groups it is in.
    spans: (start, end) in seconds of what the answer rests on, where a benchmark says so.
    """

    id: str
    video: str
    prompt: str
    letters: str
    options: tuple[str, ...]
    answer: str
    groups: Mapping[str, tuple[str, ...]]
    spans: tuple[tuple[float, float], ...] = ()
    also: tuple[str, ...] = ()


def read(
    benchmark: Benchmark, folder: str | Path, pattern: str = "", *, subtitles: bool = False
) -> list[Question]:
    """All questions of a benchmark's folder, in the order of its files.

    pattern: of the annotation file(s) below the folder, instead of the benchmark's usual ones.
    subtitles: prompts begin with those of `folder`/subtitles.
    """
    folder = annotated(paths.path("config.data.path", folder), benchmark, pattern)
    if not folder.is_dir():
        raise TempoError(f"There is no folder {folder}: give that of {benchmark.title} as config.data.path.")
    questions: dict[str, Question] = {}
    for file in _files(benchmark, folder, pattern):
        rows = [part for row in _rows(file) for part in _flat(row)]
        if not rows:
            raise TempoError(f"{file} holds no questions: download it again.")
        columns = _columns(benchmark, rows[0], file)
        stem = file.stem if file.suffix == ".json" else ""
        for number, row in enumerate(rows, start=1):
            said = folder / "subtitles" if subtitles else None
            here = _Row(benchmark, columns, row, f"{file}, question {number}", said, stem)
            question = here.question(questions)
            questions[question.id] = question
    return list(questions.values())


def annotated(folder: paths.AnyPath, benchmark: Benchmark, pattern: str = "") -> Path:
    """A local folder of the annotations: of gs:// a copy of those and the subtitles, without the videos."""
    if not paths.remote(folder):
        return folder
    patterns = (pattern,) if pattern else benchmark.annotations

    def wanted(name: str) -> bool:
        return name.startswith("subtitles/") or any(fnmatch.fnmatch(name, one) for one in patterns)

    copy = paths.fetched(folder, wanted)
    if not any(copy.iterdir()):
        raise TempoError(
            f"{folder} has no annotation file of {benchmark.title} (looked for {', '.join(patterns)})"
        )
    return copy


def fingerprint(questions: list[Question]) -> str:
    """The same for the same questions, in whatever order and whatever else their videos may be called."""
    plain = [dataclasses.asdict(question) for question in questions]
    lines = sorted(json.dumps({k: v for k, v in q.items() if k != "also"}, sort_keys=True) for q in plain)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _files(benchmark: Benchmark, folder: Path, pattern: str) -> list[Path]:
    patterns = (pattern,) if pattern else benchmark.annotations
    for wanted in patterns:
        if found := sorted(path for path in folder.glob(wanted) if path.is_file()):
            return found
    copy = f" ({benchmark.copy} on Hugging Face)" if benchmark.copy else ""
    raise TempoError(
        f"{folder} has no annotation file of {benchmark.title} (looked for {', '.join(patterns)}): give the "
        f"folder it was downloaded to{copy}, or the file's name as config.data.annotations."
    )


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        if file.suffix == ".parquet":
            rows = parquet.ParquetFile(file).read().to_pylist()
        else:
            text = file.read_text(encoding="utf-8-sig")
            lines = [line for line in text.splitlines() if line.strip()]
            rows = json.loads(text) if text.lstrip()[:1] == "[" else [json.loads(line) for line in lines]
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TempoError(f"{file} cannot be read ({reason}): download it again.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TempoError(f"{file} is no list of questions: give a benchmark's own annotation file.")
    return rows


def _flat(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """LVBench's own file has a line per video, with its questions in a list."""
    if not isinstance(row.get("qa"), list):
        yield row
        return
    yield from ({**row, **part} for part in row["qa"] if isinstance(part, dict))


def _columns(benchmark: Benchmark, row: dict[str, Any], file: Path) -> dict[str, str]:
    """What a question needs -> the column it is in."""
    needed = dict(benchmark.columns)
    if benchmark.mean_of:
        needed[benchmark.mean_of] = benchmark.groups[benchmark.mean_of]
    for names in needed.values():
        if not any(name in row for name in names):
            raise TempoError(
                f"{file} has no column {' or '.join(names)} (it has {', '.join(row)}): give "
                f"{benchmark.title}'s own annotation file."
            )
    named = {**benchmark.columns, **benchmark.optional}
    found = {what: next((name for name in names if name in row), None) for what, names in named.items()}
    return {what: name for what, name in found.items() if name is not None}


@dataclasses.dataclass(frozen=True)
class _Row:
    """One row of a file, `where` it is for whoever has to mend it."""

    benchmark: Benchmark
    columns: Mapping[str, str]
    row: Mapping[str, Any]
    where: str
    subtitles: Path | None = None  # the folder of those that prompts begin with
    file: str = ""  # the file's name: MLVU's authors have a folder of videos for each of theirs

    def question(self, others: Mapping[str, Question]) -> Question:
        video, text, options = self._video(), self._text("question"), self._options()
        if self.benchmark.split and not options:
            text, options = _split(text)
        letters = self.benchmark.letters[: len(options)] if options else self.benchmark.letters
        return Question(
            id=self._id(others, video, text, options),
            video=video,
            prompt="\n".join([*self._said(), self.benchmark.prompt(text, options)]),
            letters=letters,
            options=options,
            answer=self._answer(letters, options),
            groups={
                heading: _names(self.row[columns[0]])
                for heading, names in self.benchmark.groups.items()
                if (columns := [name for name in names if self.row.get(name) is not None])
            },
            spans=tuple((float(start), float(end)) for start, end in self._get("spans") or ()),
            also=tuple(dict.fromkeys(self._also(video))),
        )

    def _get(self, what: str) -> Any:
        return self.row.get(self.columns[what]) if what in self.columns else None

    def _text(self, what: str) -> str:
        value = self._get(what)
        if not isinstance(value, str) or not value.strip():
            raise TempoError(f"{self.where}: {self.columns[what]} is {value!r}, but it must be text.")
        return clean_text(value)

    def _video(self) -> str:
        name = self._text("video")
        if not _inside(name):
            raise TempoError(f"{self.where}: the video {name!r} is outside the folder of videos: repair it.")
        return name

    def _also(self, video: str) -> Iterator[str]:
        """What else the video may be called: by its other columns, and in a folder that the file names."""
        if self.file:
            yield f"{self.file}/{video}"
        for column in self.benchmark.columns["video"]:
            name = self.row.get(column)
            if isinstance(name, str) and name.strip() and name != video and _inside(name):
                yield name

    def _said(self) -> list[str]:
        """The subtitles' lines, if wanted."""
        if self.subtitles is None:
            return []
        name, duration = self._text("subtitles"), self._get("duration")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise TempoError(f"{self.where}: subtitles {name!r} are outside their folder: repair it.")
        if not isinstance(duration, int | float):
            raise TempoError(
                f"{self.where}: the duration is {duration!r}, but it must be seconds: repair it."
            )
        return subtitles.lines(self.subtitles / name, self._get("subtitles_from") or 0.0, duration)

    def _options(self) -> tuple[str, ...]:
        options = self._get("options")
        if options is None:  # LongVideoBench's parquet has a column for each
            found = (self.row.get(f"option{i}") for i in range(len(self.benchmark.letters)))
            options = [option for option in found if option is not None]
        if not isinstance(options, list | tuple) or not all(isinstance(x, str) for x in options):
            raise TempoError(f"{self.where}: the options are {options!r}, but they must be a list of texts.")
        options = tuple(clean_text(x) for x in options if x != NOT_OFFERED)
        needed = "options" in self.benchmark.columns
        if len(options) > len(self.benchmark.letters) or (needed and not options):
            most = len(self.benchmark.letters)
            raise TempoError(f"{self.where} has {len(options)} options, but it must have 1 to {most}.")
        return options

    def _answer(self, letters: str, options: tuple[str, ...]) -> str:
        answer = self._get("answer")
        if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(letters):
            return letters[answer]
        if isinstance(answer, str) and len(answer.strip()) == 1 and answer.strip() in letters:
            return answer.strip()
        if isinstance(answer, str) and options.count(clean_text(answer)) == 1:  # MLVU's authors: its words
            return letters[options.index(clean_text(answer))]
        raise TempoError(f"{self.where}: the answer {answer!r} is none of {', '.join(letters)}: repair it.")

    def _id(self, others: Mapping[str, Question], video: str, text: str, options: tuple[str, ...]) -> str:
        """The benchmark's own, else of what the question is, so that the order of a file is nothing to it."""
        given = self._get("id")
        if given is not None:
            if str(given) in others:
                raise TempoError(f"{self.where}: {self.columns['id']} {given!r} is there already: repair it.")
            return str(given)
        content = "\0".join((video, text, *options)).encode()
        name = f"{video}/{hashlib.sha256(content).hexdigest()[:10]}"
        count = next(n for n in range(1, len(others) + 2) if _numbered(name, n) not in others)
        return _numbered(name, count)


def _inside(name: str) -> bool:
    """By its name only: in a folder of the Hugging Face cache every file is a link that leads out."""
    path = PurePosixPath(name.replace("\\", "/"))
    return not (path.is_absolute() or ".." in path.parts or "\0" in name)


def _split(text: str) -> tuple[str, tuple[str, ...]]:
    """The question, and the options that stand in lines of their own below it."""
    lines = text.split("\n")
    found = [OPTION.fullmatch(line.strip()) for line in lines]
    first = max((i for i, option in enumerate(found) if option and option[1] == "A"), default=0)
    options = found[first:]
    lettered = all(options) and [o[1] for o in options] == list("ABCDE"[: len(options)])
    if not first or len(options) < 2 or not lettered:
        return text, ()
    return "\n".join(lines[:first]), tuple(option[2] for option in options)


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _names(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else (value,)
    return tuple(f"{x:g}" if isinstance(x, float) else str(x) for x in values)
