"""`tempo batch`: many questions with one model, a JSON line for each as soon as it is answered."""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from tempo_jax import cli_options as options
from tempo_jax import progress as progress_lines
from tempo_jax.errors import TempoError


def run_batch(args: argparse.Namespace) -> int:
    """Answer all cases with one model, one JSON line each; 2 where any of them failed."""
    checkpoint = options.checkpoint_folder(args.checkpoint)
    cases = _read_cases(Path(args.cases))
    failed = 0
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(_open_out(args.out, Path(args.cases)))
        progress = stack.enter_context(progress_lines.reporter())
        with contextlib.redirect_stdout(sys.stderr):
            asker = _Asker(options.load(checkpoint, args.dtype), args, Path(args.cases).parent, progress)
        for index, (case, following) in enumerate(zip(cases, [*cases[1:], None])):
            progress("cases", index, len(cases))
            with contextlib.redirect_stdout(sys.stderr):
                result = asker(case, again=_video(case) is not None and _video(case) == _video(following))
            failed += "error" in result
            out.write(_line(index, case, result))
            out.flush()
        progress("cases", len(cases), len(cases))
    if failed:
        where = args.out or "the output"
        cases_failed = f"{failed} of {options.count(len(cases), 'case')} failed"
        options.say(f'tempo: {cases_failed}; their "error" in {where} says why.')
    return 2 if failed else 0


class _Asker:
    """Answers cases one by one; cases that follow each other on one video share its open clip."""

    def __init__(self, tempo: Any, args: argparse.Namespace, folder: Path, progress: progress_lines.Reporter):
        self.tempo, self.folder, self.progress = tempo, folder, progress
        self.open_options = options.chosen(args, options.OPEN_OPTIONS)
        self.ask_options = options.chosen(args, options.ASK_OPTIONS) | {"progress": progress}
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
            return {"error": str(error) if isinstance(error, TempoError) else options.bug(error)}

    def _ask(self, video: str, query: str, again: bool) -> Any:
        path, query = str(self.folder / video), options.clean_text(query)
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


def _line(index: int, case: Any, result: dict) -> str:
    """The output line: the case's own fields, then ours; "error" is there only where we say so."""
    own = {k: v for k, v in case.items() if k != "error"} if isinstance(case, dict) else {"case": case}
    return json.dumps({**own, "index": index, **result}, ensure_ascii=False) + "\n"


def _read_cases(path: Path) -> list:
    try:
        cases = json.loads(path.read_text(encoding="utf-8-sig"))
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


def _open_out(out: str | None, cases: Path) -> contextlib.AbstractContextManager[TextIO]:
    """The file to write lines to; stdout where none was named."""
    if out is None:
        options.utf8_stdout()
        return contextlib.nullcontext(sys.stdout)
    if Path(out).resolve() == cases.resolve():
        raise TempoError(f"--out {out} is the cases file itself; name another file.")
    try:
        return open(out, "w", encoding="utf-8", errors="replace")
    except OSError as error:
        raise TempoError(f"The output {out} cannot be written: {error.strerror or error}.") from error
