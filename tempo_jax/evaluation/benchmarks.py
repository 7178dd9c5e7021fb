"""The benchmarks, one row each, in the format in which their authors publish them.

Prompts, parsers, groups and numbers of new tokens are those of the published evaluation
(docs/reference/tempo.md#evaluation-protocol), which published numbers depend on;
minireel is of this project.
"""

import dataclasses
from collections.abc import Callable, Mapping

from tempo_jax.evaluation import parsing

DIRECTLY = "Answer with the option's letter from the given choices directly."


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """How one benchmark is read, prompted and scored.

    Attributes:
      name: Its name in `config.benchmark`.
      title: Its name in reports.
      annotations: Glob patterns below the benchmark's folder; the first that matches is read.
      folders: Folders of videos below it; all others are searched after them.
      columns: Field of a question -> names that its column may have; the first one present counts. All
        columns of "video" are names of the video.
      groups: Heading -> names that its column may have; a list there puts a question into several groups.
      parse: Parser of replies, see `parsing`.
      optional: As `columns`, for fields that may be missing.
      copy: The data set to download, as Hugging Face names it; "" where there is none.
      prompt_prefix: The prompt is prompt_prefix + question + options_prefix + a line per option +
        prompt_suffix.
      options_prefix: See `prompt_prefix`.
      option: Format of the line of an option.
      prompt_suffix: See `prompt_prefix`.
      letters: Letters of the options, in order.
      new_tokens: Maximum length of an answer.
      mean_of: The heading over whose groups the score is an unweighted mean; "": over all questions.
      random_fallback: Whether an unparseable reply is scored as a random option.
      split: Whether options in lines of the question, as "(A) …", are split off.
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
    prompt_prefix: str = ""
    options_prefix: str = ""
    option: str = "{option}"
    prompt_suffix: str = ""
    letters: str = "ABCD"
    new_tokens: int = 16
    mean_of: str = ""
    random_fallback: bool = False
    split: bool = False

    def prompt(self, question: str, options: tuple[str, ...]) -> str:
        """Returns the prompt of a question; `<image>` in it is removed, as in the reference code."""
        lines = [
            self.option.format(letter=letter, option=option) for letter, option in zip(self.letters, options)
        ]
        text = "\n".join([self.prompt_prefix + question + self.options_prefix, *lines]) + self.prompt_suffix
        return text.replace("<image>", "")


LVBENCH = Benchmark(
    name="lvbench",
    title="LVBench",
    copy="lmms-lab/LVBench",
    annotations=("data/train-*.parquet", "train-*.parquet", "*.parquet", "video_info.meta.jsonl"),
    folders=("", "videos", "all_videos", "video", "data"),
    columns={"video": ("video_path", "key"), "question": ("question",), "answer": ("answer",)},
    optional={"id": ("uid", "question_id"), "options": ("options",)},
    option="({letter}) {option}",
    prompt_suffix="\nAnswer the question with the option letter",
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
    prompt_prefix=(
        "Select the best answer to the following multiple-choice question based on the video and the "
        "subtitles. Respond with only the letter (A, B, C, or D) of the correct option.\n"
    ),
    prompt_suffix=f"\n\n{DIRECTLY}",
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
    prompt_suffix="\nOnly give the best option.\nBest option: (",
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
    prompt_suffix=f"\n{DIRECTLY}\n",
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
    prompt_suffix="\nAnswer the question with the option letter",
    groups={"kind": ("kind",), "seconds": ("seconds",)},
    parse=parsing.by_words,
)  # fmt: skip

BENCHMARKS = {row.name: row for row in (LVBENCH, VIDEOMME, MLVU, LONGVIDEOBENCH, MINIREEL)}
