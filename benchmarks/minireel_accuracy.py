"""Accuracy on held-out minireel videos, and its dependence on the allocation.

Two parts, one run: accuracy by kind of question with relevance AUC, and a table of what the LLM gets to
see (strategy x budget) on a part of the same questions. Videos are encoded as H.264 and read back.

    python benchmarks/minireel_accuracy.py --out build/accuracy.json --figure build/accuracy.png

`eval.py --config=configs/eval_minireel.py` asks the same about existing videos, and resumes where it was
killed. Several runs over different videos (--first) can share the work; --merge puts their files together.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

import tempo_jax
from tempo_jax.data import minireel
from tempo_jax.evaluation import figure, scoring

STRATEGIES = ("head", "tail", "random", "tome", "uniform")
FULL = "none"  # no compression: every memory token of every segment


def ask_all(tempo, args) -> list[dict]:
    """One row per question and setting."""
    rows, started = [], time.perf_counter()
    for number in range(args.first, args.first + args.videos):
        seconds = args.seconds[number % len(args.seconds)]
        reel = minireel.make(args.split, number, seconds=seconds, size=args.size)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reel.mp4"
            reel.write(path)
            clip = tempo.open(str(path), prefix_cache=True)
            for question in reel.questions:
                rows += _settings(clip, reel, question, args, number < args.ablated)
        done = [row for row in rows if row["strategy"] == "head" and row["budget"] == args.budget]
        right = sum(row["right"] for row in done)
        print(
            f"video {number + 1 - args.first}/{args.videos}: {right}/{len(done)} right, "
            f"{time.perf_counter() - started:.0f} s",
            flush=True,
        )
    return rows


def _settings(clip, reel, question, args, ablate: bool) -> list[dict]:
    settings = [("head", args.budget)]
    if ablate:
        settings += [(s, b) for b in args.budgets for s in STRATEGIES if (s, b) != settings[0]]
        settings += [(FULL, None)]
    rows = []
    for strategy, budget in settings:
        options = {"compress": False} if strategy == FULL else {"budget": budget, "strategy": strategy}
        answer = clip.ask(question.prompt, max_new_tokens=16, **options)
        row = {
            "reel": reel.name, "kind": question.kind, "strategy": strategy, "budget": budget,
            "right": question.chosen(answer.text), "text": answer.text, "letter": question.answer_letter,
            "tokens_per_frame": answer.usage["tokens_per_frame"],
        }  # fmt: skip
        if not rows:
            row["auc"] = scoring.relevance_auc(answer.segments, question.relevant_seconds)
            row["segments"] = len(answer.segments)
        rows.append(row)
    return rows


def summary(rows: list[dict], args) -> dict:
    main = [row for row in rows if row["strategy"] == "head" and row["budget"] == args.budget]
    kinds = defaultdict(list)
    for row in main:
        kinds[row["kind"]].append(row)
    kinds["all"] = main
    table = {}
    for kind, some in kinds.items():
        right = sum(row["right"] for row in some)
        low, high = scoring.wilson(right, len(some))
        aucs = [row["auc"] for row in some if row["auc"] is not None]
        table[kind] = {
            "questions": len(some), "right": right, "accuracy": right / len(some), "low": low, "high": high,
            "relevance_auc": float(np.mean(aucs)) if aucs else None,
        }  # fmt: skip
    settings = defaultdict(list)
    ablated = {row["reel"] for row in rows if row["strategy"] == FULL}
    for row in rows:
        if row["reel"] in ablated:
            settings[row["strategy"], row["budget"]].append(row)
    ablation = [
        {
            "strategy": strategy, "budget": budget, "questions": len(some),
            "accuracy": float(np.mean([row["right"] for row in some])),
            "tokens_per_frame": float(np.mean([row["tokens_per_frame"] for row in some])),
        }
        for (strategy, budget), some in settings.items()
    ]  # fmt: skip
    return {"kinds": table, "ablation": ablation, "budget": args.budget, "segments": main[0].get("segments")}


def as_json(result: dict, rows: list[dict]) -> str:
    """All of it, one row a line."""
    head = json.dumps(result, indent=1, allow_nan=False).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(row, allow_nan=False)}" for row in rows)
    return f'{head},\n "rows": [\n{lines}\n ]\n}}\n'


def markdown(result: dict) -> str:
    lines = ["| questions | right | accuracy | 95 % | relevance AUC |", "|---|---|---|---|---|"]
    for kind, row in result["kinds"].items():
        auc_text = "-" if row["relevance_auc"] is None else f"{row['relevance_auc']:.3f}"
        lines.append(
            f"| {kind} | {row['right']}/{row['questions']} | {row['accuracy']:.1%} | "
            f"{row['low']:.0%} to {row['high']:.0%} | {auc_text} |"
        )
    lines += ["", "| strategy | budget | tokens per frame | accuracy | questions |", "|---|---|---|---|---|"]
    for row in result["ablation"]:
        lines.append(
            f"| {row['strategy']} | {row['budget'] or '-'} | {row['tokens_per_frame']:.2f} | "
            f"{row['accuracy']:.1%} | {row['questions']} |"
        )
    return "\n".join(lines)


def drawable(result: dict) -> dict:
    """The ablation as eval.py's figure takes it."""
    alike = {"max_frames": 0, "min_tokens": 0, "max_tokens": 0}
    settings = []
    for row in result["ablation"]:
        low, high = scoring.wilson(round(row["accuracy"] * row["questions"]), row["questions"])
        settings.append(row | alike | {"score": row | {"low": low, "high": high}})
    title = f"minireel, {settings[0]['questions']} questions"
    return {"title": title, "chance": 0.25, "settings": settings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="checkpoints/demo")
    parser.add_argument("--split", default="test")
    parser.add_argument("--videos", type=int, default=72)
    parser.add_argument("--first", type=int, default=0, help="number of the first video")
    parser.add_argument("--ablated", type=int, default=16, help="videos before this number: every setting")
    parser.add_argument("--seconds", type=float, nargs="+", default=[512.0, 4096.0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--budgets", type=int, nargs="+", default=[640, 1024, 1536])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--merge", type=Path, nargs="+", help="ask nothing: rows of earlier --out files")
    args = parser.parse_args()
    if args.merge:
        rows = [row for path in args.merge for row in json.loads(path.read_text("utf-8"))["rows"]]
    else:
        rows = ask_all(tempo_jax.load(args.checkpoint), args)
    result = summary(rows, args)
    print(markdown(result))
    if args.figure and result["ablation"]:
        figure.draw(drawable(result), args.figure)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(as_json(result, rows), encoding="utf-8")


if __name__ == "__main__":
    main()
