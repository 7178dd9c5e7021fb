"""Tempo with parts of XComp: LP-Comp in its LLM, QC-Comp before its compressor; accuracy against tokens.

    python benchmarks/both_at_once.py --xcomp build/xcomp/minireel/model --out build/both.json

One run over the same questions about held-out minireel videos, encoded as H.264 and read back. A row says
what stays of the frames and of the memory tokens. Layer tokens: memory tokens, tags and text that a layer of
the LLM sees, mean over layers. Needles found: of the needle questions, the share whose segment was kept.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

import tempo_jax
from tempo_jax.data import minireel
from tempo_jax.evaluation import scoring
from tempo_jax.hybrid import xcomp_selector
from tempo_jax.video import open_video


def ask_all(tempo, xcomp, args) -> list[dict]:
    """One record per question and row."""
    records, started = [], time.perf_counter()
    for number in range(args.first, args.first + args.videos):
        reel = minireel.make("test", number, seconds=args.seconds, size=args.size)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reel.mp4"
            reel.write(path)
            source = open_video(str(path), config=tempo.config.video)
            clip = tempo.open(source, prefix_cache=True, questions=1)
            for question in reel.questions:
                for lp_comp in ("none", "suffix", "prefix"):
                    records.append(_record(reel, question, f"LP-Comp {lp_comp}", clip, args, lp_comp=lp_comp))
                for share, strategy in args.selections if xcomp else ():
                    frames = source.num_frames // share
                    part = xcomp_selector.select_segments(
                        xcomp, source, question.prompt, frames, strategy=strategy
                    )
                    name = f"1/{share} of the frames, {strategy}"
                    records.append(_record(reel, question, name, tempo.open(part, keep=False), args))
        print(
            f"video {number + 1}: {len(records)} answers, {time.perf_counter() - started:.0f} s", flush=True
        )
    return records


def _record(reel, question, row: str, clip, args, **options) -> dict:
    answer = clip.ask(question.prompt, budget=args.budget, max_new_tokens=16, **options)
    kept = [(s.start_seconds, s.end_seconds) for s in answer.segments]
    return {
        "reel": reel.name, "kind": question.kind, "row": row, "right": question.chosen(answer.text),
        "layer_tokens": answer.usage["layer_tokens"], "visual_tokens": answer.usage["visual_tokens"],
        "frames_kept": answer.usage["frames_kept"], "found": _seen(question, kept),
    }  # fmt: skip


def _seen(question, kept: list[tuple[float, float]]) -> float | None:
    """Whether a kept frame shows the needle."""
    if question.kind != "needle":
        return None
    return float(any(a < end and start < b for a, b in question.relevant_seconds for start, end in kept))


def table(records: list[dict]) -> list[dict]:
    rows = []
    for row in dict.fromkeys(record["row"] for record in records):
        row_records = [record for record in records if record["row"] == row]
        right = sum(record["right"] for record in row_records)
        low, high = scoring.wilson(right, len(row_records))
        mean = {
            name: float(np.mean([r[name] for r in row_records if r[name] is not None]))
            for name in ("layer_tokens", "visual_tokens", "frames_kept", "found")
        }
        rows.append(
            {"row": row, "questions": len(row_records), "right": right, "accuracy": right / len(row_records)}
            | {"low": low, "high": high} | mean
        )  # fmt: skip
    return rows


def markdown(rows: list[dict]) -> str:
    head = ("", "frames", "memory tokens", "layer tokens", "needles found", "right", "accuracy", "95 %")
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * 6}---|"]
    for row in rows:
        cells = (
            row["row"], f"{row['frames_kept']:.0f}", f"{row['visual_tokens']:.0f}",
            f"{row['layer_tokens']:.0f}", f"{row['found']:.0%}", f"{row['right']}/{row['questions']}",
            f"{row['accuracy']:.1%}", f"{row['low']:.0%} to {row['high']:.0%}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def selection(text: str) -> tuple[int, str]:
    share, _, strategy = text.partition(":")
    return int(share), strategy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="checkpoints/demo")
    parser.add_argument("--xcomp", help="checkpoint of the selector; without one LP-Comp alone is measured")
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--first", type=int, default=0, help="number of the first video")
    parser.add_argument("--seconds", type=float, default=512.0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument(
        "--selections",
        type=selection,
        nargs="+",
        default=[(2, "local"), (2, "uniform"), (4, "local"), (4, "uniform")],
        metavar="SHARE:STRATEGY",
        help="2:local keeps half of the frames by XComp's scores",
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    xcomp = tempo_jax.load(args.xcomp) if args.xcomp else None
    records = ask_all(tempo_jax.load(args.checkpoint), xcomp, args)
    rows = table(records)
    print(markdown(rows))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"table": rows, "records": records}, indent=0), encoding="utf-8")


if __name__ == "__main__":
    main()
