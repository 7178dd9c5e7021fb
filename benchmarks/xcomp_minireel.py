"""Accuracy of a small XComp with LP-Comp, tuned and not: the paper's ablation on minireel.

    python train.py --config=configs/xcomp_minireel_glimpse.py --workdir=build/xcomp/glimpse
    python train.py --config=configs/xcomp_minireel_see.py --workdir=build/xcomp/see
    python train.py --config=configs/xcomp_minireel.py --workdir=build/xcomp/minireel
    python train.py --config=configs/xcomp_minireel_sct.py --workdir=build/xcomp/sct
    python train.py --config=configs/xcomp_minireel_sct.py --workdir=build/xcomp/sct_none \\
        --config.lp_comp=none
    python benchmarks/xcomp_minireel.py --out build/xcomp.json

Every question is asked of every row of ROWS: a checkpoint and which tokens its layers see. Held-out test
videos of the length that was trained, encoded as H.264 and read back; every frame is kept, so that LP-Comp
alone makes the difference. Nats: the loss of tuning, summed over the labels of conversations about the same
videos, a label.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from scipy import stats

import tempo_jax
from configs import xcomp_minireel_sct
from tempo_jax.data import minireel
from tempo_jax.data.batch_packing import BatchShape
from tempo_jax.data.sources import open_source
from tempo_jax.evaluation import scoring
from tempo_jax.models import build
from tempo_jax.tasks import xcomp
from tempo_jax.xcomp import token_compression

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
PAIRS = (
    ("tuned with compression", "tuned without compression"),
    ("tuned with compression", "base, training-free"),
    ("tuned with compression", "tuned without compression, training-free"),
    ("base, training-free", "base, training-free, uniform"),
)
ASK = {"fps": 1.0, "min_frames": 8}


def ask_all(systems: dict, args) -> list[dict]:
    """One record per question and row of ROWS."""
    records, started = [], time.perf_counter()
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
                    records.append({
                        "reel": reel.name, "kind": question.kind, "row": row, "text": answer.text,
                        "right": question.chosen(answer.text), "frames": answer.usage["frames"],
                    })  # fmt: skip
        if (number + 1) % 10 == 0:
            print(f"video {number + 1}/{args.videos}, {time.perf_counter() - started:.0f} s", flush=True)
    return records


def nats(system, variant: str, args) -> float:
    """Loss a label on held-out conversations; frames as they are drawn, not encoded."""
    tuned = xcomp_minireel_sct.get_config()
    source = open_source({**tuned.data.sources[0], "split": "test", "start": 0, "count": args.videos})
    config = dataclasses.replace(system.config, compression=token_compression.VARIANTS[variant])
    model = build.build(config, build.parameters(system.model))
    shape = BatchShape(tuned.batch.segments, tuned.batch.compressor_length, 1, 1)
    run = jax.jit(lambda model, batch: xcomp.loss(model, batch, remat="none"))
    records = [
        run(model, xcomp.collate([source[number]], system.tokenizer, config, shape))
        for number in range(args.videos)
    ]
    return float(sum(one.total for one in records) / sum(one.tokens for one in records))


def tokens_a_frame(system, variant: str) -> float:
    """Mean over the LLM's layers."""
    config = system.config
    plan = token_compression.make_schedule(
        token_compression.VARIANTS[variant], config.llm.num_layers, config.frame_tokens
    )
    return float(np.mean(plan.layer_tokens))


def table(records: list[dict], systems: dict, args) -> list[dict]:
    rows = []
    for row, (name, variant) in ROWS.items():
        row_records = [record for record in records if record["row"] == row]
        if row_records:
            right = sum(record["right"] for record in row_records)
            low, high = scoring.wilson(right, len(row_records))
            rows.append({
                "row": row, "questions": len(row_records), "right": right,
                "accuracy": right / len(row_records), "low": low, "high": high,
                "tokens_a_frame": tokens_a_frame(systems[name], variant),
                "nats": nats(systems[name], variant, args), "kinds": by_kind(row_records),
            })  # fmt: skip
    return rows


def by_kind(records: list[dict]) -> dict[str, str]:
    kinds = dict.fromkeys(record["kind"] for record in records)
    correct_by_kind = {
        kind: [record["right"] for record in records if record["kind"] == kind] for kind in kinds
    }
    return {kind: f"{sum(right)}/{len(right)}" for kind, right in correct_by_kind.items()}


def compare(records: list[dict]) -> str:
    """A line per pair of PAIRS: questions that one of both has right and the other wrong, a sign test."""
    right = {row: [record["right"] for record in records if record["row"] == row] for row in ROWS}
    lines = []
    for first, second in PAIRS:
        if right[first] and right[second]:
            here = sum(a and not b for a, b in zip(right[first], right[second], strict=True))
            there = sum(b and not a for a, b in zip(right[first], right[second], strict=True))
            p = stats.binomtest(here, here + there).pvalue if here + there else 1.0
            lines.append(f"{first} {here}, {second} {there}: p = {p:.2g}")
    return "\n".join(lines)


def markdown(rows: list[dict]) -> str:
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["kinds"]))
    head = ("", "tokens a frame and layer", "nats a label", "right", "accuracy", "95 %", *kinds)
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for row in rows:
        cells = (
            row["row"], f"{row['tokens_a_frame']:.1f}", f"{row['nats']:.3f}",
            f"{row['right']}/{row['questions']}", f"{row['accuracy']:.1%}",
            f"{row['low']:.0%} to {row['high']:.0%}", *(row["kinds"].get(kind, "") for kind in kinds),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
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
    records = ask_all(systems, args)
    rows = table(records, systems, args)
    print(markdown(rows), compare(records), sep="\n\n")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"table": rows, "records": records}, indent=0), encoding="utf-8")


if __name__ == "__main__":
    main()
