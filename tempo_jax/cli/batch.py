"""`tempo batch`: answers a file of questions, one JSON line each as soon as it is answered.

The same command resumes an interrupted run and retries failed cases.
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

ANSWERED_BY = "answered_by"  # a digest of the model and the options; a run resumes its own lines only
# Fields of the answer; a case's fields of these names are overwritten.
RESULT = {"index", "text", "token_ids", "segments", "usage", "timings", "warnings"}

HELP = """\
CASES.json is a list of objects with "video_path" and "query"; paths are relative to its folder.
Each case is written as one JSON line as soon as it is answered: the fields of the case, its index, and
the fields of the answer or "error". A failed case does not stop the others; the exit status is then 2.
With an existing OUT.jsonl the same command resumes: answers of the same model and options are kept,
failed cases are retried, and other lines are moved to OUT.jsonl.before."""


def add_parser(commands: Any) -> None:
    """Adds the subcommand and its options."""
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
    """Answers the cases that --out does not hold yet; returns 2 if any failed."""
    checkpoint = common.checkpoint_folder(args.checkpoint)
    cases = _read_cases(args.cases)
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(_open_out(args, checkpoint, cases))
        pending = [index for index in range(len(cases)) if index not in out.answered]
        if not pending:
            command_line.say(f"tempo: all {count(len(cases), 'case')} are answered in {args.out} already.")
            return 0
        if out.answered:
            command_line.say(
                f"tempo: {len(out.answered)} of {len(cases)} cases are answered in {args.out} already."
            )
        progress = stack.enter_context(progress_lines.reporter())
        with contextlib.redirect_stdout(sys.stderr):
            run_case = _CaseRunner(common.load(checkpoint, args.dtype), args, _beside(args.cases), progress)
        failed = _ask(cases, pending, run_case, out, progress)
    if failed:
        output_name = args.out or "the output"
        cases_failed = f"{failed} of {count(len(cases), 'case')} failed"
        again = "; rerun the same command to retry them" if args.out else ""
        command_line.say(f'tempo: {cases_failed}; their "error" in {output_name} says why{again}.')
    return 2 if failed else 0


def _ask(
    cases: list, pending: list[int], run_case: "_CaseRunner", out: "_ResultWriter", progress: Any
) -> int:
    """Answers the pending cases; returns how many failed."""
    failed = 0
    for index, following in zip(pending, [*pending[1:], None]):
        progress("cases", index, len(cases))
        after = None if following is None else cases[following]
        with contextlib.redirect_stdout(sys.stderr):
            again = _video(cases[index]) is not None and _video(cases[index]) == _video(after)
            result = run_case(cases[index], again=again)
        failed += "error" in result
        out.write(index, cases[index], result)
    progress("cases", len(cases), len(cases))
    return failed


class _CaseRunner:
    """Answers cases one by one; successive cases on one video share its encoded clip."""

    def __init__(self, tempo: Any, args: argparse.Namespace, folder: Path, progress: progress_lines.Reporter):
        self.tempo, self.folder, self.progress = tempo, folder, progress
        self.open_options = common.chosen(args, common.OPEN_OPTIONS)
        self.ask_options = common.chosen(args, common.ASK_OPTIONS) | {"progress": progress}
        self.clip = None

    def __call__(self, case: Any, again: bool) -> dict:
        """Returns the fields of the answer or of an error; `again`: the next case is on the same video."""
        try:
            answer = self._ask(*_check_case(case), again)
            self.clip = self.clip if again else None
            return answer.to_dict()
        except Exception as error:
            self.clip = None  # the next case opens its video anew
            if os.environ.get("TEMPO_JAX_TRACEBACK") and not isinstance(error, TempoError):
                raise
            return {
                "error": str(error) if isinstance(error, TempoError) else command_line.internal_error(error)
            }

    def _ask(self, video: str, query: str, again: bool) -> Any:
        path, query = str(self.folder / video), clean_text(query)
        if not os.path.isfile(path) and not os.path.isdir(path):
            raise TempoError(f"There is no video {path}; check the path.")
        if self.clip is None and again:
            self.clip = self.tempo.open(path, progress=self.progress, **self.open_options)
        if self.clip is not None:
            return self.clip.ask(query, **self.ask_options)
        # The only question on this video: no features are cached.
        return self.tempo.ask(path, query, **self.open_options, **self.ask_options)


def _video(case: Any) -> str | None:
    return case.get("video_path") if isinstance(case, dict) else None


def _case_fields(case: Any) -> dict:
    """The fields of a case in its line, without those that only this program writes."""
    if not isinstance(case, dict):
        return {"case": case}
    return {name: value for name, value in case.items() if name not in ("error", ANSWERED_BY)}


def _line(index: int, case: Any, result: dict) -> str:
    """The output line: the fields of the case, then those of the answer."""
    return json.dumps({**_case_fields(case), "index": index, **result}, ensure_ascii=False) + "\n"


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
    """The video path and query of one case; raises a TempoError if it has none."""
    if not isinstance(case, dict):
        raise TempoError('The case is not an object with "video_path" and "query".')
    for key in ("video_path", "query"):
        if not isinstance(case.get(key), str):
            raise TempoError(f'The case has no text "{key}".')
    return case["video_path"], case["query"]


class _ResultWriter:
    """Writes lines to a stream, which cannot be resumed."""

    def __init__(self, file: TextIO):
        self.file: Any = file
        self.answered: dict[int, str] = {}

    def write(self, index: int, case: Any, result: dict) -> None:
        self.file.write(_line(index, case, result))
        self.file.flush()


class _ResumedWriter(_ResultWriter):
    """Writes lines to a file, of which the answers of this model and these options are kept.

    The file changes when the first new answer is written; its other lines are then in FILE.before.
    """

    def __init__(self, path: Path, cases: list, answered_by: str):
        self.path, self.answered_by, self.file = path, answered_by, None
        self.answered: dict[int, str] = {}
        *lines, rest = _text_of(path).split("\n")
        num_recognized = 0
        for line in lines:
            index, failed = self._case_of(line, cases)
            num_recognized += index is not None
            if index is not None and not failed:
                self.answered[index] = line + "\n"
        cut = bool(rest) and num_recognized  # a process was killed while writing it
        self._others = len(lines) > num_recognized or bool(rest and not cut)

    def _case_of(self, line: str, cases: list) -> tuple[int | None, bool]:
        """(index of the case that a line answers, or None; whether that case failed)."""
        try:
            old = json.loads(line)
            fields = _case_fields(cases[old["index"]])
            same = all(old[name] == value for name, value in fields.items() if name not in RESULT)
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
        """Leaves only the kept lines in the file."""
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
def _open_out(args: argparse.Namespace, checkpoint: Path, cases: list) -> Iterator[_ResultWriter]:
    """Opens --out, or stdout without it."""
    if args.out is None:
        command_line.utf8_stdout()
        yield _ResultWriter(sys.stdout)
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
        lines = _ResumedWriter(path, cases, _answered_by(args, checkpoint))
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
        model = checkpoint_id.fingerprint(checkpoint)["fingerprint"]
    key = json.dumps([model, chosen], sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()[:16]
