"""Small synthetic copies of the four published benchmarks: their schemas, generated videos.

    python -m tests.benchmark_copies FOLDER

Each has two sound videos with two questions each and one question about each of three others: one that is
missing, one that is cut short and one of no bytes.
"""

import json
import sys
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from tempo_jax.video.synthetic import SyntheticVideo, write_video

SOUND, BROKEN = ("one", "two"), ("missing", "cut", "empty")
ASKED = (*SOUND, *SOUND, *BROKEN)  # which video each question is about
ANSWERS = "ABCDABC"
OPTIONS = ["a red bar", "a square", "nothing", "the clock"]


def write_videos(folder: Path, suffix: str = ".mp4") -> None:
    """The sound and the broken ones; `missing` is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(SOUND):
        write_video(
            folder / f"{name}{suffix}",
            SyntheticVideo(seconds=4, fps=4, height=48, width=64, seed=seed),
            gop=4,
        )
    write_video(
        folder / "whole.mp4", SyntheticVideo(seconds=8, fps=4, height=48, width=64), gop=4, faststart=True
    )
    whole = (folder / "whole.mp4").read_bytes()
    (folder / f"cut{suffix}").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / f"empty{suffix}").write_bytes(b"")
    (folder / "whole.mp4").unlink()


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def lvbench(folder: Path) -> Path:
    write_videos(folder / "videos")
    lettered = "\n".join(f"({letter}) {option}" for letter, option in zip("ABCD", OPTIONS))
    rows = [
        {
            "uid": f"{100 + i}", "key": name, "video_path": f"{name}.mp4",
            "question": f"What is seen in part {i}?\n{lettered}", "answer": answer,
            "question_type": ["entity recognition", "reasoning"][: 1 + i % 2],
            "time_reference": "00:01-00:02", "type": ("cartoon", "sport")[i % 2],
        }
        for i, (name, answer) in enumerate(zip(ASKED, ANSWERS))
    ]  # fmt: skip
    return write_rows(folder / "data" / "train-00000-of-00001.parquet", rows)


def videomme(folder: Path) -> Path:
    write_videos(folder / "data", ".mkv")
    rows = [
        {
            "video_id": f"{i:03}", "duration": ("short", "medium", "long")[i % 3], "domain": "Knowledge",
            "sub_category": "Law", "url": "", "videoID": name, "question_id": f"{i:03}-1",
            "task_type": ("OCR Problems", "Counting Problem")[i % 2],
            "question": f"What is seen in part {i}?",
            "options": [f"{letter}. {option}" for letter, option in zip("ABCD", OPTIONS)], "answer": answer,
        }
        for i, (name, answer) in enumerate(zip(ASKED, ANSWERS))
    ]  # fmt: skip
    return write_rows(folder / "videomme" / "test-00000-of-00001.parquet", rows)


def mlvu(folder: Path) -> Path:
    """As in sy1998/MLVU_dev: the table in a folder `mlvu`."""
    write_videos(folder / "video" / "1_plotQA")
    tasks = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")
    lettered = "\n".join(f"({letter}) {option}" for letter, option in zip("ABCD", OPTIONS))
    rows = [
        {
            "video_name": f"{name}.mp4", "duration": 4.0,
            "question": f"What is seen in part {i}?\n{lettered}",
            "answer": answer, "task_type": task,
        }
        for i, (name, answer, task) in enumerate(zip(ASKED, ANSWERS, tasks))
    ]  # fmt: skip
    return write_rows(folder / "mlvu" / "test-00000-of-00001.parquet", rows)


def longvideobench(folder: Path) -> Path:
    write_videos(folder / "videos")
    rows = [
        {
            "video_id": name, "question": f"What is seen in part {i}?", "question_wo_referring_query": "",
            **{f"option{k}": option for k, option in enumerate([*OPTIONS, ("N/A", "all of them")[i % 2]])},
            "correct_choice": "ABCD".index(answer), "position": [1, 2],
            "topic_category": "KH-Knowledge-History",
            "question_category": ("S2E", "T3O")[i % 2], "level": "L1-Perception", "id": f"{name}_{i}",
            "video_path": f"{name}.mp4", "subtitle_path": f"{name}_en.json",
            "duration_group": (15, 60, 600, 3600)[i % 4], "starting_timestamp_for_subtitles": 0,
            "duration": 4.0, "view_count": 7,
        }
        for i, (name, answer) in enumerate(zip(ASKED, ANSWERS))
    ]  # fmt: skip
    return write_rows(folder / "validation-00000-of-00001.parquet", rows)


WRITERS = {
    "lvbench": lvbench,
    "videomme": videomme,
    "mlvu": mlvu,
    "longvideobench": longvideobench,
}


def main() -> None:
    for name, write in WRITERS.items():
        print(write(Path(sys.argv[1]) / name))


if __name__ == "__main__":
    main()
