"""What LP-Comp costs a small XComp in accuracy, learned and not: the paper's ablation, on minireel.

    python train.py --config=configs/xcomp_minireel_see.py --workdir=build/xcomp/see
    python train.py --config=configs/xcomp_minireel.py --workdir=build/xcomp/minireel
    python train.py --config=configs/xcomp_minireel_sct.py --workdir=build/xcomp/sct
    python train.py --config=configs/xcomp_minireel_sct.py --workdir=build/xcomp/sct_none \\
        --config.compression=none
    python benchmarks/xcomp_minireel.py --out build/xcomp.json

Every question is asked of every row of ROWS: a checkpoint and which tokens its layers see. Held-out test
videos of the length that was trained, encoded as H.264 and read back; every frame is kept, so that LP-Comp
alone makes the difference.
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
from tempo_jax.xcomp import schedule

# What it is -> (checkpoint, LP-Comp's variant).
ROWS = {
    "base, no compression": ("base", "none"),
    "base, training-free": ("base", "released"),
    "base, training-free, uniform": ("base", "uniform"),
    "tuned with compression": ("tuned", "released"),
    "tuned with compression, asked without": ("tuned", "none"),
    "tuned without compression": ("control", "none"),
    "tuned without compression, training-free": ("control", "released"),
}
ASK = {"fps": 1.0, "min_frames": 8}


def ask_all(systems: dict, args) -> list[dict]:
    """One record per question and row of ROWS."""
    found, started = [], time.perf_counter()
    for number in range(args.videos):
        reel = minireel.make("test", number, seconds=args.seconds, size=args.size)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reel.mp4"
            reel.write(path)
            clips = {name: system.open(str(path), **ASK) for name, system in systems.items()}
            for question in reel.questions:
                for row, (name, variant) in ROWS.items():
                    if name not in clips:
                        continue
                    answer = clips[name].ask(question.prompt, lp_comp=variant, max_new_tokens=16)
                    found.append({
                        "reel": reel.name, "kind": question.kind, "row": row, "text": answer.text,
                        "right": question.chosen(answer.text), "frames": answer.usage["frames"],
                    })  # fmt: skip
        if (number + 1) % 10 == 0:
            print(f"video {number + 1}/{args.videos}, {time.perf_counter() - started:.0f} s", flush=True)
    return found


def tokens_a_frame(system, variant: str) -> float:
    """Mean over the LLM's layers."""
    config = system.config
    plan = schedule.plan(schedule.VARIANTS[variant], config.llm.num_layers, config.frame_tokens)
    return float(np.mean(plan.tokens[1:]))


def table(found: list[dict], systems: dict) -> list[dict]:
    rows = []
    for row, (name, variant) in ROWS.items():
        own = [record for record in found if record["row"] == row]
        if own:
            right = sum(record["right"] for record in own)
            low, high = scoring.wilson(right, len(own))
            rows.append({
                "row": row, "questions": len(own), "right": right, "accuracy": right / len(own), "low": low,
                "high": high, "tokens_a_frame": tokens_a_frame(systems[name], variant),
            })  # fmt: skip
    return rows


def markdown(rows: list[dict]) -> str:
    lines = ["| | tokens a frame and layer | right | accuracy | 95 % |", "|---|---:|---:|---:|---|"]
    for row in rows:
        lines.append(
            f"| {row['row']} | {row['tokens_a_frame']:.1f} | {row['right']}/{row['questions']} | "
            f"{row['accuracy']:.1%} | {row['low']:.0%} to {row['high']:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="build/xcomp/minireel/model")
    parser.add_argument("--tuned", default="build/xcomp/sct/model")
    parser.add_argument("--control", default="build/xcomp/sct_none/model")
    parser.add_argument("--videos", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=32.0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    paths = {name: Path(getattr(args, name)) for name in ("base", "tuned", "control")}
    systems = {name: tempo_jax.load(path) for name, path in paths.items() if path.is_dir()}
    if not systems:
        print(f"nothing to ask: train {paths['base']} and the others first, as this file's head says")
        return
    found = ask_all(systems, args)
    rows = table(found, systems)
    print(markdown(rows))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"table": rows, "records": found}, indent=0), encoding="utf-8")


if __name__ == "__main__":
    main()
