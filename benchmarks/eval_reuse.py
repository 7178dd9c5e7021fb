"""Cost of further questions about an open video: 15 questions, with the size of the cached features.

    python benchmarks/eval_reuse.py [--seconds 64] [--questions 15]

One run, no trained weights needed: random models of the demo's size and of thirteen times its
parameters. Each answers all questions opening the video anew for every question, keeping the vision tower's
output, keeping the compressor's prefix too (config.video_cache of eval.py), and that with the further answers
written four at a time (config.decode_batch). All programs are compiled beforehand. Counted: how often the
video was decoded, and chunks that went through the vision tower (a video of 64 s has 16 segments, in 2
chunks).
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import jax

import tempo_jax
from tempo_jax import checkpoint
from tempo_jax.data.minireel import tokenizer
from tempo_jax.models import build
from tempo_jax.models.presets import DEMO
from tempo_jax.runtime.session import GenerationRequest
from tempo_jax.tempo import steps
from tempo_jax.tempo.options import Options
from tempo_jax.video import Source
from tempo_jax.video.synthetic import SyntheticVideo, write_video

# What is kept, and how many further answers are decoded in a batch.
WAYS = {
    "nothing": ({"keep": False}, 1),
    "vision": ({"keep": True}, 1),
    "prefix": ({"keep": True, "prefix_cache": True}, 1),
    "prefix, four together": ({"keep": True, "prefix_cache": True}, 4),
}
BUDGET, NEW_TOKENS = 512, 8


def larger():
    """The demo's architecture, wider and deeper, with four times the visual and memory tokens."""
    svlm = DEMO.compressor
    vision = dataclasses.replace(svlm.vision, hidden_size=192, intermediate_size=576, depth=8, num_heads=6)
    text = dataclasses.replace(
        svlm.text, hidden_size=384, intermediate_size=1152, num_layers=8, num_heads=6, num_kv_heads=6
    )
    vision = dataclasses.replace(vision, out_hidden_size=text.hidden_size)
    llm = dataclasses.replace(
        DEMO.llm,
        hidden_size=480,
        intermediate_size=1440,
        num_layers=8,
        num_heads=12,
        num_kv_heads=12,
        head_dim=40,
    )
    video = dataclasses.replace(DEMO.video, min_pixels=16_384, max_pixels=16_384)
    compressor = dataclasses.replace(svlm, vision=vision, text=text)
    return dataclasses.replace(DEMO, compressor=compressor, llm=llm, memory_tokens=64, video=video)


def random_model(folder: Path, config) -> tuple[tempo_jax.Tempo, int]:
    """A model of random weights, and how many parameters it has."""
    tokenizer.write(folder / "tokenizer")
    params = build.parameters(build.init(config))
    count = sum(x.size for x in jax.tree.leaves(params))
    checkpoint.save(folder / "model", "tempo", config, params, folder / "tokenizer")
    return tempo_jax.load(folder / "model"), count


class Counts:
    """How often a video is decoded and how many chunks are seen, from now on."""

    def __init__(self):
        self.decoded = self.seen = 0
        see, chunks = steps.encode_frames, Source.chunks

        def counted_see(compressor, frames):
            self.seen += 1
            return see(compressor, frames)

        def counted_chunks(source, size):
            self.decoded += 1
            return chunks(source, size)

        steps.encode_frames, Source.chunks = counted_see, counted_chunks

    def take(self) -> tuple[int, int]:
        taken = self.decoded, self.seen
        self.decoded = self.seen = 0
        return taken


def ask_all(
    tempo: tempo_jax.Tempo, video: Path, questions: list[str], way: dict, together: int
) -> tuple[float, float]:
    """Seconds of the first question, to which the opening counts, and of all others."""
    options = Options(budget=BUDGET, max_new_tokens=NEW_TOKENS)
    started = time.perf_counter()
    clip = tempo.open(video, min_frames=8, **way)
    clip.answer([GenerationRequest(questions[0], options)])
    first, others = time.perf_counter(), questions[1:]
    for start in range(0, len(others), together):
        clip.answer([GenerationRequest(question, options) for question in others[start : start + together]])
    return first - started, time.perf_counter() - first


def measure(tempo: tempo_jax.Tempo, video: Path, questions: list[str], counts: Counts) -> list[dict]:
    rows = []
    for name, (way, together) in WAYS.items():
        ask_all(tempo, video, questions if together > 1 else questions[:1], way, together)  # compiles
        counts.take()
        first, others = ask_all(tempo, video, questions, way, together)
        decoded, seen = counts.take()
        further = others / (len(questions) - 1)
        rows.append(
            {
                "kept": name, "first_seconds": first, "further_seconds": further, "share": further / first,
                "decoded": decoded, "chunks_seen": seen,
            }
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=64.0)
    parser.add_argument("--questions", type=int, default=15)
    parser.add_argument("--out", type=Path, help="the numbers as JSON")
    args = parser.parse_args()
    shapes = ("star", "cross", "arrow", "heart", "moon")
    questions = [f"When does the {shapes[i % 5]} appear, part {i}?" for i in range(args.questions)]
    results, counts = {}, Counts()
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video.mp4"
        write_video(video, SyntheticVideo(seconds=args.seconds, fps=4, height=128, width=128))
        for name, config in (("demo", DEMO), ("larger", larger())):
            (Path(folder) / name).mkdir()
            tempo, parameters = random_model(Path(folder) / name, config)
            results[name] = {"parameters": parameters, "rows": measure(tempo, video, questions, counts)}
            print(f"\n{name}: {parameters / 1e6:.1f} M parameters, {args.questions} questions\n")
            print("| kept | first, s | further, s each | further / first | decoded | chunks seen |")
            print("|---|---|---|---|---|---|")
            for row in results[name]["rows"]:
                print(
                    f"| {row['kept']} | {row['first_seconds']:.2f} | {row['further_seconds']:.3f} | "
                    f"{row['share']:.0%} | {row['decoded']} | {row['chunks_seen']} |",
                    flush=True,
                )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
