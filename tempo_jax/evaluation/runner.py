"""Asks a model a benchmark's questions: videos one after the other, each decoded and seen once.

A row per answer goes to workdir/rows/<process>.jsonl as it comes, and what is there is not asked again;
so a run may be killed at any moment, and processes share the videos without talking to each other.
"""

import itertools
import json
import os
from collections import Counter
from pathlib import Path

from ml_collections import ConfigDict

from tempo_jax.errors import TempoError, TryAgain
from tempo_jax.evaluation import annotations, checkpoint_id, hosts, report, results, rows, settings
from tempo_jax.evaluation import config as configs
from tempo_jax.evaluation.ask import Asker, Key, Pair, file_state, missing
from tempo_jax.evaluation.protocols import benchmark
from tempo_jax.evaluation.videos import Videos
from tempo_jax.evaluation.watch import Watch
from tempo_jax.training.checkpoints import code_version
from tempo_jax.utils import paths

LONGEST_SECONDS = 7 * 24 * 3600  # that processes may be apart
MOST_MISSING = 0.01  # of the videos: more are an archive that was not unpacked, or the wrong folder


def _wait_for_the_others() -> None:
    """Until all processes have asked their part; jax.distributed ends the rest where one of them dies."""
    from jax._src import distributed

    if distributed.global_state.client is not None:
        distributed.global_state.client.wait_at_barrier("tempo/eval/end", LONGEST_SECONDS * 1000)


class Run:
    """One process's part of an evaluation in `workdir`; TempoError for what a user can mend."""

    def __init__(self, config: ConfigDict, workdir: str | os.PathLike, process: int = 0, processes: int = 1):
        configs.check(config)
        if not 0 <= process < processes:
            raise TempoError(f"--process is {process}: it must be from 0 to {processes - 1} (--processes).")
        self.config, self.workdir = config, paths.path("the workdir", workdir)
        self.process, self.processes = process, processes
        self.benchmark, self.grid = benchmark(config.benchmark, config.system), settings.grid(config)
        everything = annotations.read(
            self.benchmark, config.data.path, config.data.annotations, subtitles=config.subtitles
        )
        self.questions = everything[: config.limit or None]
        where = (config.data.path, config.data.videos)
        self.videos = Videos(self.benchmark, *(where[1:] if paths.remote(where[0]) else where))
        self.about = {
            "model": checkpoint_id.identify(config.checkpoint, config.system),
            "annotations": {"fingerprint": annotations.fingerprint(everything), "questions": len(everything)},
            "config": configs.identity(config),
            "code": code_version(),
        }
        self._begin()

    def _begin(self) -> None:
        """Notes what the answers depend on; TempoError where those of this workdir depend on other things."""
        path = self.workdir / "run.json"
        now = {
            "model": self.about["model"]["fingerprint"],
            "annotations": self.about["annotations"]["fingerprint"],
            **self.about["config"],
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
    def pairs(self) -> list[Pair]:
        """Every question under every setting."""
        return list(itertools.product(self.questions, self.grid))

    @property
    def mine(self) -> list[Pair]:
        """Those of this process's videos."""
        names = set(sorted({question.video for question in self.questions})[self.process :: self.processes])
        return [(question, setting) for question, setting in self.pairs if question.video in names]

    def ask(self) -> None:
        """Asks this process's part of what is missing.

        TempoError, before anything is asked, where too many videos are not there.
        """
        done = self._settled(rows.read(self.workdir))
        self._check_videos()
        mine = self.mine
        todo = len(missing(mine, done))
        if not todo:
            return
        writer = rows.Writer(self.workdir, self.process)
        note = hosts.Note(self.workdir, self.process, self.processes)
        ended = False
        watch = Watch(len(mine) - todo, len(mine), shown=self.process == 0)
        try:
            for row in Asker(self.config, self.benchmark, self.videos).rows(mine, done):
                writer.write(row)
                note.answered(row)
                watch.answered(row["right"])
            ended = True
        finally:
            watch.close()
            writer.close()
            note.close(ended)

    def _settled(self, found: dict[Key, rows.Row]) -> dict[Key, rows.Row]:
        """Without what is to be asked again: of videos that have come since, or are other files now."""
        of = {question.id: question for question in self.questions}
        paths: dict[str, Path | None] = {}

        def again(row: rows.Row) -> bool:
            why = rows.unanswered(row)
            if why not in (rows.MISSING, rows.UNDECODABLE) or row["question"] not in of:
                return False
            if row["video"] not in paths:
                paths[row["video"]] = self._path(of[row["question"]])
            path = paths[row["video"]]
            if path is None:
                return False
            return why == rows.MISSING or ("file" in row and row["file"] != file_state(path))

        return {key: row for key, row in found.items() if not again(row)}

    def _path(self, question: annotations.Question) -> Path | None:
        try:
            return self.videos.find(question.video, *question.also)
        except TempoError as error:
            if str(error).startswith(rows.NO_VIDEO):
                return None
            raise

    def _check_videos(self) -> None:
        """TempoError where more than MOST_MISSING of the videos are needed and not there, unless allowed."""
        answered = rows.read(self.workdir)
        answered = {key for key, row in answered.items() if not rows.unanswered(row)}
        needed = {question.video: question for question, _ in missing(self.pairs, answered)}
        lost = [name for name, question in needed.items() if self._path(question) is None]
        total = len({question.video for question in self.questions})
        if len(lost) > MOST_MISSING * total and not self.config.allow_missing:
            named = ", ".join(lost[:3]) + (", …" if len(lost) > 3 else "")
            raise TempoError(
                f"{len(lost)} of {total} videos are missing in {self.videos.root} and the folders below it "
                f"({named}): download or unpack them, check config.data.path and config.data.videos, or "
                "go on without them with --config.allow_missing=True."
            )

    def lost(self) -> str:
        """What has no answer and why: of the run or, while others go on, of this process's part."""
        found = rows.read(self.workdir)
        whole = not missing(self.pairs, found)
        kinds = Counter(
            rows.unanswered(found[question.id, setting.name])
            for question, setting in (self.pairs if whole else self.mine)
            if (question.id, setting.name) in found
        )
        return report.lost({kind: kinds[kind] for kind in rows.UNANSWERED})

    def report(self) -> list[str]:
        """Writes the report of all rows that are there; the lines to print."""
        done = rows.read(self.workdir)
        found = results.results(self.benchmark, self.questions, self.grid, done, self.about)
        seconds = results.seconds(self.grid, self.questions, done)
        report.write(self.workdir, found, seconds, self.config.published, hosts.read(self.workdir))
        return report.table(found)

    def finish(self, wait: bool) -> list[str]:
        """Writes the report if this process is the last one; wait: process 0 does, when all are done.

        The lines to print.
        """
        if wait:
            _wait_for_the_others()
            if self.process:
                return []
        if left := len(missing(self.pairs, rows.read(self.workdir))):
            if wait:
                raise TryAgain(f"{left} answers are missing in {self.workdir}: run the same command again")
            return [
                f"This part is done; the others of {self.processes} go on with {self.workdir}, where {left} "
                "answers are missing. The last one writes the report; --report writes that of what is there."
            ]
        return [*self.report(), f"The report: {self.workdir / 'report.md'}"]
