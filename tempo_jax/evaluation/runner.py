"""Runs a benchmark: videos one after the other, each decoded and encoded once for all of its questions.

Each answer is appended to workdir/rows/<process>.jsonl, and questions with a row there are not asked again;
so a run may be killed at any moment, and processes share the videos without communication.
"""

import itertools
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from tempo_jax.errors import TempoError, TryAgain
from tempo_jax.evaluation import annotations, checkpoint_id, hosts, report, results, rows, settings
from tempo_jax.evaluation import config as configs
from tempo_jax.evaluation.protocols import benchmark
from tempo_jax.evaluation.question_runner import EvalItem, Key, QuestionRunner, file_state, pending
from tempo_jax.evaluation.videos import Videos
from tempo_jax.evaluation.watch import ProgressReporter
from tempo_jax.training.checkpoints import code_version
from tempo_jax.utils import paths

MAX_RUN_SECONDS = 7 * 24 * 3600  # between the ends of two processes
MAX_MISSING_FRACTION = 0.01  # of the videos: more hint at an archive not unpacked, or at the wrong folder


def _wait_for_processes() -> None:
    """Returns when all processes have finished; jax.distributed ends the others where one of them dies."""
    from jax._src import distributed

    if distributed.global_state.client is not None:
        distributed.global_state.client.wait_at_barrier("tempo/eval/end", MAX_RUN_SECONDS * 1000)


class Run:
    """One process's part of an evaluation.

    Args:
      config: An evaluation config, see `evaluation.config.default`.
      workdir: Folder of the run.
      process: Index of this process.
      processes: Number of processes that share the videos.

    Raises:
      TempoError: The config, the data or the folder does not allow the run.
    """

    def __init__(self, config: ConfigDict, workdir: str | os.PathLike, process: int = 0, processes: int = 1):
        configs.check(config)
        if not 0 <= process < processes:
            raise TempoError(f"--process is {process}: it must be from 0 to {processes - 1} (--processes).")
        self.config, self.workdir = config, paths.path("the workdir", workdir)
        self.process, self.processes = process, processes
        self.benchmark, self.grid = benchmark(config.benchmark, config.system), settings.grid(config)
        questions = annotations.read(
            self.benchmark, config.data.path, config.data.annotations, subtitles=config.subtitles
        )
        self.questions = questions[: config.limit or None]
        folders = (config.data.path, config.data.videos)
        self.videos = Videos(self.benchmark, *(folders[1:] if paths.remote(folders[0]) else folders))
        self.metadata = {
            "model": checkpoint_id.fingerprint(config.checkpoint, config.system),
            "annotations": {"fingerprint": annotations.fingerprint(questions), "questions": len(questions)},
            "config": configs.resume_key(config),
            "code": code_version(),
        }
        self._open_workdir()

    def _open_workdir(self) -> None:
        """Writes run.json, what answers depend on; raises TempoError where it is there with other values."""
        path = self.workdir / "run.json"
        now = {
            "model": self.metadata["model"]["fingerprint"],
            "annotations": self.metadata["annotations"]["fingerprint"],
            **self.metadata["config"],
        }
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            if path.exists():
                configs.check_same_run(json.loads(path.read_text("utf-8")), now, self.workdir)
                return
            paths.write_text(path, json.dumps(now, indent=1) + "\n")
        except OSError as error:
            raise TempoError(f"{self.workdir} cannot be written ({error.strerror}).") from error
        except json.JSONDecodeError as error:
            raise TempoError(f"{path} is damaged: choose another --workdir.") from error

    @property
    def items(self) -> list[EvalItem]:
        """Every question under every setting."""
        return [EvalItem(*item) for item in itertools.product(self.questions, self.grid)]

    @property
    def own_items(self) -> list[EvalItem]:
        """The items of this process's videos."""
        names = set(sorted({question.video for question in self.questions})[self.process :: self.processes])
        return [item for item in self.items if item.question.video in names]

    def ask(self, on_answer: Callable[[bool], None] | None = None) -> None:
        """Answers the pending questions of this process.

        Args:
          on_answer: Called with each row's `right`, instead of progress on stderr.

        Raises:
          TempoError: Too many videos are missing; raised before anything is asked.
        """
        done = self._settled(rows.read(self.workdir))
        self._check_videos()
        mine = self.own_items
        todo = len(pending(mine, done))
        if not todo:
            return
        writer = rows.Writer(self.workdir, self.process)
        note = hosts.Note(self.workdir, self.process, self.processes)
        ended = False
        shown = self.process == 0 and on_answer is None
        watch = ProgressReporter(len(mine) - todo, len(mine), shown=shown)
        try:
            for row in QuestionRunner(self.config, self.benchmark, self.videos).rows(mine, done):
                writer.write(row)
                note.answered(row)
                (on_answer or watch.answered)(row["right"])
            ended = True
        finally:
            watch.close()
            writer.close()
            note.close(ended)

    def _settled(self, rows_by_key: dict[Key, rows.Row]) -> dict[Key, rows.Row]:
        """Leaves out rows to repeat: of videos that have been added or replaced since."""
        question_of = {question.id: question for question in self.questions}
        paths: dict[str, Path | None] = {}

        def again(row: rows.Row) -> bool:
            reason = rows.unanswered(row)
            if reason not in (rows.MISSING, rows.UNDECODABLE) or row["question"] not in question_of:
                return False
            if row["video"] not in paths:
                paths[row["video"]] = self._path(question_of[row["question"]])
            path = paths[row["video"]]
            if path is None:
                return False
            return reason == rows.MISSING or ("file" in row and row["file"] != file_state(path))

        return {key: row for key, row in rows_by_key.items() if not again(row)}

    def _path(self, question: annotations.Question) -> Path | None:
        try:
            return self.videos.find(question.video, *question.also)
        except TempoError as error:
            if str(error).startswith(rows.NO_VIDEO):
                return None
            raise

    def _check_videos(self) -> None:
        """Raises TempoError if over MAX_MISSING_FRACTION of the videos are missing, unless allowed."""
        answered = rows.read(self.workdir)
        answered = {key for key, row in answered.items() if not rows.unanswered(row)}
        needed = {question.video: question for question, _ in pending(self.items, answered)}
        lost = [name for name, question in needed.items() if self._path(question) is None]
        total = len({question.video for question in self.questions})
        if len(lost) > MAX_MISSING_FRACTION * total and not self.config.allow_missing:
            named = ", ".join(lost[:3]) + (", …" if len(lost) > 3 else "")
            raise TempoError(
                f"{len(lost)} of {total} videos are missing in {self.videos.root} and the folders below it "
                f"({named}): download or unpack them, check config.data.path and config.data.videos, or "
                "continue without them with --config.allow_missing=True."
            )

    def unanswered(self) -> str:
        """Summarizes unanswered questions: of the run or, while others are running, of this process."""
        rows_by_key = rows.read(self.workdir)
        whole = not pending(self.items, rows_by_key)
        kinds = Counter(
            rows.unanswered(rows_by_key[question.id, setting.name])
            for question, setting in (self.items if whole else self.own_items)
            if (question.id, setting.name) in rows_by_key
        )
        return report.lost({kind: kinds[kind] for kind in rows.UNANSWERED})

    def report(self) -> list[str]:
        """Writes the report of all rows so far and returns the lines to print."""
        done = rows.read(self.workdir)
        values = results.results(self.benchmark, self.questions, self.grid, done, self.metadata)
        seconds = results.seconds(self.grid, self.questions, done)
        report.write(self.workdir, values, seconds, self.config.show_published, hosts.read(self.workdir))
        return report.table(values)

    def finish(self, wait: bool) -> list[str]:
        """Writes the report if this process is the last one.

        Args:
          wait: Whether to wait for the other processes; process 0 then writes the report.

        Returns:
          The lines to print.
        """
        if wait:
            _wait_for_processes()
            if self.process:
                return []
        if left := len(pending(self.items, rows.read(self.workdir))):
            if wait:
                raise TryAgain(f"{left} answers are missing in {self.workdir}: run the same command again")
            return [
                f"Process {self.process} finished its part; {left} answers of the other {self.processes - 1} "
                f"are missing in {self.workdir}. The last process to finish writes the report; --report "
                "writes one of the answers so far."
            ]
        return [*self.report(), f"The report: {self.workdir / 'report.md'}"]
