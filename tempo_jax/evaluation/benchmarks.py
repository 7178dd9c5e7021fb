"""The benchmarks: one row each, in the form their authors publish them in.

Prompts, parsers, groups and numbers of new tokens are those of the published evaluation (facts/tempo.md
§5.1), which published numbers depend on; minireel is ours.
"""

import dataclasses
from collections.abc import Callable, Mapping

from tempo_jax.evaluation import parsing

DIRECTLY = "Answer with the option's letter from the given choices directly."


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """How one benchmark is read, asked and scored.

    annotations: patterns below the benchmark's folder; the first that matches is read.
    folders: where below it the videos usually are; others below it are looked through after them.
    copy: the data set to download, as Hugging Face names it; "" where there is none.
    columns: what a question needs -> names its column may have, the first that is there counts. A video may
      be called by what stands in any of its columns.
    optional: the same for what may be missing.
    before, between, option, after: the prompt is before + question + between + a line per option + after.
    letters: of the options, in order. new_tokens: the answer's length at most.
    groups: heading -> names its column may have; a list in it puts a question into several groups.
    mean_of: the heading over whose groups the score is a plain mean; "": over all questions.
    random_fallback: a reply without a letter is scored as a random option.
    split: options that stand in the question's own lines, as "(A) …", are taken out of it.
    """

    name: str
    title: str
    annotations: tuple[str, ...]
    folders: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, tuple[str, ...]]
    parse: Callable[[str, str, tuple[str, ...]], str]
    optional: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    copy: str = ""
    before: str = ""
    between: str = ""
    option: str = "{option}"
    after: str = ""
    letters: str = "ABCD"
    new_tokens: int = 16
    mean_of: str = ""
    random_fallback: bool = False
    split: bool = False

    def prompt(self, question: str, options: tuple[str, ...]) -> str:
        """The text of a question as it is asked; `<image>` in it is taken out, as published."""
        lines = [
            self.option.format(letter=letter, option=option) for letter, option in zip(self.letters, options)
        ]
        asked = "\n".join([self.before + question + self.between, *lines]) + self.after
        return asked.replace("<image>", "")


LVBENCH = Benchmark(
    name="lvbench",
    title="LVBench",
    copy="lmms-lab/LVBench",
    annotations=("data/train-*.parquet", "train-*.parquet", "*.parquet", "video_info.meta.jsonl"),
    folders=("", "videos", "all_videos", "video", "data"),
    columns={"video": ("video_path", "key"), "question": ("question",), "answer": ("answer",)},
    optional={"id": ("uid", "question_id"), "options": ("options",)},
    option="({letter}) {option}",
    after="\nAnswer the question with the option letter",
    groups={"task": ("question_type",), "genre": ("type",)},
    parse=parsing.by_format,
)
VIDEOMME = Benchmark(
    name="videomme",
    title="Video-MME (no subtitles)",
    copy="lmms-lab/Video-MME",
    annotations=("videomme/test-*.parquet", "test-*.parquet", "data/test-*.parquet", "*.parquet"),
    folders=("data", "videos", "video", ""),
    columns={
        "video": ("videoID", "video_id"), "question": ("question",), "options": ("options",),
        "answer": ("answer",),
    },
    optional={"id": ("question_id",)},
    before=(
        "Select the best answer to the following multiple-choice question based on the video and the "
        "subtitles. Respond with only the letter (A, B, C, or D) of the correct option.\n"
    ),
    after=f"\n\n{DIRECTLY}",
    groups={"duration": ("duration",), "domain": ("domain",), "task": ("task_type",)},
    parse=parsing.by_format,
)  # fmt: skip
MLVU = Benchmark(
    name="mlvu",
    title="MLVU (dev)",
    copy="sy1998/MLVU_dev",
    annotations=(
        *("mlvu/test-*.parquet", "data/test-*.parquet", "test-*.parquet", "*.parquet", "mlvu_dev.json"),
        *(f"{folder}json/[1-7]_*.json" for folder in ("", "MLVU/", "*/")),  # 8 and 9 have no options
    ),
    folders=("", "video", "videos", "data", "MLVU"),
    columns={"video": ("video_name", "video"), "question": ("question",), "answer": ("answer",)},
    optional={"options": ("candidates",)},
    option="({letter}) {option}",
    after="\nOnly give the best option.\nBest option: (",
    groups={"task": ("task_type", "question_type")},
    mean_of="task",
    parse=parsing.by_format,
)
LONGVIDEOBENCH = Benchmark(
    name="longvideobench",
    title="LongVideoBench (val, video only)",
    copy="longvideobench/LongVideoBench",
    annotations=(
        "validation-*.parquet",
        "data/validation-*.parquet",
        "*/validation-*.parquet",
        "lvb_val.json",
    ),
    folders=("videos", "", "data"),
    columns={
        "video": ("video_path", "video_id"), "question": ("question",), "answer": ("correct_choice",),
    },
    optional={
        "id": ("id",), "options": ("candidates",), "subtitles": ("subtitle_path",),
        "subtitles_from": ("starting_timestamp_for_subtitles",), "duration": ("duration",),
    },
    option="{letter}. {option}",
    after=f"\n{DIRECTLY}\n",
    letters="ABCDE",
    new_tokens=32,
    groups={"duration": ("duration_group",), "category": ("question_category",)},
    parse=parsing.first_letter,
    random_fallback=True,
)  # fmt: skip
MINIREEL = Benchmark(
    name="minireel",
    title="minireel",
    annotations=("test.jsonl", "validation.jsonl", "*.jsonl"),
    folders=("", "videos"),
    columns={
        "video": ("video",), "question": ("text",), "options": ("options",), "answer": ("answer_letter",),
    },
    optional={"id": ("id",), "spans": ("relevant_seconds",)},
    option="({letter}) {option}",
    after="\nAnswer the question with the option letter",
    groups={"kind": ("kind",), "seconds": ("seconds",)},
    parse=parsing.by_words,
)  # fmt: skip

BENCHMARKS = {row.name: row for row in (LVBENCH, VIDEOMME, MLVU, LONGVIDEOBENCH, MINIREEL)}
