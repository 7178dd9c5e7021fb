"""Ask an hour-long video several questions whose answers are known, and show where the model relevant.

    python examples/ask_an_hour.py [--checkpoint checkpoints/demo] [--plot build/demo.png]

The video is minireel's (examples/hour/): 68 minutes of which each thing asked about fills a few seconds.
Exit status 1 when an answer is wrong.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import tempo_jax
from tempo_jax.data.minireel import option_of
from tempo_jax.runtime.plot import clock

HOUR = Path(__file__).resolve().parent / "hour"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="checkpoints/demo")
    parser.add_argument("--folder", type=Path, default=HOUR, help="questions.jsonl and the video it names")
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--plot", type=Path, help="draw where the tokens of the first question went")
    args = parser.parse_args()
    rows = [json.loads(line) for line in (args.folder / "questions.jsonl").read_text("utf-8").splitlines()]
    began = time.perf_counter()
    clip = tempo_jax.load(args.checkpoint).open(str(args.folder / rows[0]["video"]))
    print(f"{rows[0]['video']}: decoded and encoded once in {time.perf_counter() - began:.0f} s", flush=True)
    right = 0
    for number, row in enumerate(rows, start=1):
        began = time.perf_counter()
        answer = clip.ask(row["conversations"][0]["value"].removeprefix("<video>\n"), budget=args.budget)
        good = option_of(answer.text, row["options"]) == row["answer_letter"]
        right += good
        best = sorted(answer.segments, key=lambda segment: -segment.relevance)
        relevant = [best[0], *(segment for segment in best[1:3] if segment.relevance >= 0.5)]
        relevant.sort(key=lambda segment: segment.start_seconds)
        spans = ", ".join(f"{clock(s.start_seconds)} to {clock(s.end_seconds)}" for s in relevant)
        cost = f"{answer.usage['visual_tokens']} visual tokens, {time.perf_counter() - began:.0f} s"
        verdict = "right" if good else f"WRONG, it is {row['answer_text']}"
        print(
            f"\n{number}. {row['text']}\n   {answer.text}: {verdict}\n   most relevant: {spans}; {cost}",
            flush=True,
        )
        if args.plot and number == 1:
            args.plot.parent.mkdir(parents=True, exist_ok=True)
            answer.plot(args.plot, title=row["text"])
    print(f"\n{right} of {len(rows)} right")
    return int(right < len(rows))


if __name__ == "__main__":
    sys.exit(main())
