"""`tempo batch`: many questions with one model, a JSON line for each as soon as it is answered.

The same command goes on where it was interrupted, and asks again what had failed.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from tempo_jax.cli import common
from tempo_jax.errors import TempoError
from tempo_jax.utils import command_line, paths
from tempo_jax.utils import progress as progress_lines
from tempo_jax.utils.mirror import Mirror
from tempo_jax.utils.text import clean_text, count

ANSWERED_BY = "answered_by"  # the model and options of a line, so that only their own are gone on with
# What a line has of ours, whatever a case calls so.
RESULT = {"index", "text", "token_ids", "segments", "usage", "timings", "warnings"}

HELP = """\
CASES.json is a list of objects with "video_path" and "query"; relative paths start at its folder.
One JSON line is written per case as soon as it is answered: the case's own fields, its index, and
the answer's fields or "error". A failed case does not stop the others; the exit status tells.
The same command goes on with an OUT.jsonl that is there: what it answers (by the same model and
options) is kept, what failed is asked again, and nothing else in it is lost (OUT.jsonl.before)."""


def add_parser(commands: Any) -> None:
    """The subcommand and its options."""
    batch = commands.add_parser(
        "batch",
        help="answer a file of cases",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    batch.add_argument("cases", metavar="CASES.json")
    batch.add_argument("--out", metavar="OUT.jsonl", help="write the lines there (default: stdout)")
    common.add_model_options(batch)
    batch.set_defaults(run=run_batch)


def run_batch(args: argparse.Namespace) -> int:
    """Answer the cases that --out does not answer yet, one JSON line each; 2 where any failed."""
    checkpoint = common.checkpoint_folder(args.checkpoint)
    cases = _read_cases(args.cases)
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(_open_out(args, checkpoint, cases))
        todo = [index for index in range(len(cases)) if index not in out.answered]
        if not todo:
            command_line.say(f"tempo: all {count(len(cases), 'case')} are answered in {args.out} already.")
            return 0
        if out.answered:
            command_line.say(
                f"tempo: {len(out.answered)} of {len(cases)} cases are answered in {args.out} already."
            )
        progress = stack.enter_context(progress_lines.reporter())
        with contextlib.redirect_stdout(sys.stderr):
            asker = _Asker(common.load(checkpoint, args.dtype), args, _beside(args.cases), progress)
        failed = _ask(cases, todo, asker, out, progress)
    if failed:
        where = args.out or "the output"
        cases_failed = f"{failed} of {count(len(cases), 'case')} failed"
        again = "; the same command asks them again" if args.out else ""
        command_line.say(f'tempo: {cases_failed}; their "error" in {where} says why{again}.')
    return 2 if failed else 0


def _ask(cases: list, todo: list[int], asker: "_Asker", out: "_Lines", progress: Any) -> int:
    """How many failed of those to do."""
    failed = 0
    for index, following in zip(todo, [*todo[1:], None]):
        progress("cases", index, len(cases))
        after = None if following is None else cases[following]
        with contextlib.redirect_stdout(sys.stderr):
            again = _video(cases[index]) is not None and _video(cases[index]) == _video(after)
            result = asker(cases[index], again=again)
        failed += "error" in result
        out.write(index, cases[index], result)
    progress("cases", len(cases), len(cases))
    return failed


class _Asker:
    """Answers cases one by one; cases that follow each other on one video share its open clip."""

    def __init__(self, tempo: Any, args: argparse.Namespace, folder: Path, progress: progress_lines.Reporter):
        self.tempo, self.folder, self.progress = tempo, folder, progress
        self.open_options = common.chosen(args, common.OPEN_OPTIONS)
        self.ask_options = common.chosen(args, common.ASK_OPTIONS) | {"progress": progress}
        self.clip = None

    def __call__(self, case: Any, again: bool) -> dict:
        """The answer's fields, or {"error": sentence}; `again`: the next case has the same video."""
        try:
            answer = self._ask(*_check_case(case), again)
            self.clip = self.clip if again else None
            return answer.to_dict()
        except Exception as error:
            self.clip = None  # whatever went wrong, the next case starts afresh
            if os.environ.get("TEMPO_JAX_TRACEBACK") and not isinstance(error, TempoError):
                raise
            return {"error": str(error) if isinstance(error, TempoError) else command_line.bug(error)}

    def _ask(self, video: str, query: str, again: bool) -> Any:
        path, query = str(self.folder / video), clean_text(query)
        if not os.path.isfile(path) and not os.path.isdir(path):
            raise TempoError(f"There is no video {path}; check the path.")
        if self.clip is None and again:
            self.clip = self.tempo.open(path, progress=self.progress, **self.open_options)
        if self.clip is not None:
            return self.clip.ask(query, **self.ask_options)
        # Asked once only: nothing of the video needs to stay in memory.
        return self.tempo.ask(path, query, **self.open_options, **self.ask_options)


def _video(case: Any) -> str | None:
    return case.get("video_path") if isinstance(case, dict) else None


def _own(case: Any) -> dict:
    """A case's own fields in its line; "error" and "answered_by" are there only where we say so."""
    if not isinstance(case, dict):
        return {"case": case}
    return {name: value for name, value in case.items() if name not in ("error", ANSWERED_BY)}


def _line(index: int, case: Any, result: dict) -> str:
    """The output line: the case's own fields, then ours."""
    return json.dumps({**_own(case), "index": index, **result}, ensure_ascii=False) + "\n"


def _beside(cases: str) -> Path:
    """The folder that videos are named from: that of the cases, or this one where they are in gs://."""
    return Path() if paths.url(cases) else Path(cases).parent


def _read_cases(path: str) -> list:
    try:
        cases = json.loads(paths.read_bytes("the cases", path).decode("utf-8-sig"))
    except OSError as error:
        raise TempoError(f"The cases {path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise TempoError(f"The cases {path} are not JSON: {error}.") from error
    if not isinstance(cases, list) or not cases:
        raise TempoError(
            f'The cases {path} must be a list of {{"video_path": …, "query": …}}; it holds none.'
        )
    return cases


def _check_case(case: Any) -> tuple[str, str]:
    """(video path, query) of one case; TempoError names what is wrong with it."""
    if not isinstance(case, dict):
        raise TempoError('The case is not an object with "video_path" and "query".')
    for key in ("video_path", "query"):
        if not isinstance(case.get(key), str):
            raise TempoError(f'The case has no text "{key}".')
    return case["video_path"], case["query"]


class _Lines:
    """Lines as they are answered, to a stream that keeps nothing."""

    def __init__(self, file: TextIO):
        self.file, self.answered = file, {}

    def write(self, index: int, case: Any, result: dict) -> None:
        self.file.write(_line(index, case, result))
        self.file.flush()


class _Resumed(_Lines):
    """A file that keeps what it answers of these cases, by this model and these options.

    It is touched when the first new answer is there. What else it held is then in FILE.before.
    """

    def __init__(self, path: Path, cases: list, answered_by: str):
        self.path, self.answered_by, self.file = path, answered_by, None
        self.answered: dict[int, str] = {}
        *lines, rest = _text_of(path).split("\n")
        ours = 0
        for line in lines:
            index, failed = self._case_of(line, cases)
            ours += index is not None
            if index is not None and not failed:
                self.answered[index] = line + "\n"
        cut = bool(rest) and ours  # killed while it wrote
        self._others = len(lines) > ours or bool(rest and not cut)

    def _case_of(self, line: str, cases: list) -> tuple[int | None, bool]:
        """Which case a line is of, None where it is of none or has another's answer; whether that failed."""
        try:
            old = json.loads(line)
            own = _own(cases[old["index"]])
            same = all(old[name] == value for name, value in own.items() if name not in RESULT)
        except (ValueError, LookupError, TypeError):
            return None, False
        failed = "error" in old
        answer = failed or old.get(ANSWERED_BY) == self.answered_by
        return (old["index"] if same and answer and old["index"] >= 0 else None), failed

    def write(self, index: int, case: Any, result: dict) -> None:
        if self.file is None:
            self._begin()
        line = _line(index, case, result | {ANSWERED_BY: self.answered_by})
        self.answered[index] = line
        self.file.write(line)
        self.file.flush()

    def _begin(self) -> None:
        """The kept lines alone in the file; a failed case's line gives way to the new one."""
        if self._others:
            before = self.path.with_name(f"{self.path.name}.before")
            shutil.copyfile(self.path, before)
            command_line.say(f"tempo: {self.path} held other lines; they are in {before} now.")
        self._replace()
        self.file = open(self.path, "a", encoding="utf-8", errors="replace")  # noqa: SIM115

    def _replace(self) -> None:
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        text = "".join(line for _, line in sorted(self.answered.items()))
        fresh.write_text(text, encoding="utf-8", errors="replace")
        fresh.replace(self.path)

    def close(self) -> None:
        """Leaves the lines in the order of the cases."""
        if self.file is not None:
            self.file.close()
            self._replace()


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def _open_out(args: argparse.Namespace, checkpoint: Path, cases: list) -> Iterator[_Lines]:
    """Where to write lines; stdout where no file was named."""
    if args.out is None:
        command_line.utf8_stdout()
        yield _Lines(sys.stdout)
        return
    where = paths.path("the output", args.out)
    mirror = Mirror(where.parent, (where.name,)) if paths.remote(where) else None
    path = mirror.folder / where.name if mirror else where
    if str(paths.absolute(where)) == str(paths.absolute(paths.path("the cases", args.cases))):
        raise TempoError(f"--out {path} is the cases file itself; name another file.")
    try:
        new = not path.exists()
        with open(path, "ab"):  # nothing of it is changed yet
            pass
        if new:
            path.unlink()
        lines = _Resumed(path, cases, _answered_by(args, checkpoint))
    except OSError as error:
        raise TempoError(f"The output {path} cannot be written: {error.strerror or error}.") from error
    try:
        yield lines
    finally:
        lines.close()
        if mirror is not None:
            mirror.close()


def _answered_by(args: argparse.Namespace, checkpoint: Path) -> str:
    """16 digits of what an answer depends on besides its case: the model and the options."""
    from tempo_jax.evaluation import checkpoint_id

    chosen = common.chosen(args, (*common.OPEN_OPTIONS, *common.ASK_OPTIONS, "dtype"))
    model = ""
    with contextlib.suppress(TempoError):  # loading says what is wrong with it
        model = checkpoint_id.identify(checkpoint)["fingerprint"]
    told = json.dumps([model, chosen], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]
