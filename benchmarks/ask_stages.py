"""Time of one `ask` by stage, and the share of decoding that is overlapped with compute; demo model.

    python benchmarks/ask_stages.py [--checkpoint checkpoints/demo] [--seconds 600] [--budget 1024]

One process: every shape is compiled first, then each stage runs alone and all run together. Wall-clock
seconds; what counts are the shares and the overlap, and those only where nothing else runs beside.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import tempo_jax
from tempo_jax.tempo import layout
from tempo_jax.video import open_video
from tempo_jax.video.synthetic import SyntheticVideo, write_video

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "What color is the ball?"
NEW_TOKENS = 16


def decoded(tempo: tempo_jax.Tempo, clip, path: str) -> tuple[np.ndarray, float]:
    """The sampled frames, and the seconds of decoding alone."""
    source = open_video(path, fps=2.0, min_frames=4, max_frames=1024, config=tempo.config.video)
    started = time.perf_counter()
    chunks = list(layout.chunk_frames(source, clip.layout))
    seconds = time.perf_counter() - started
    frames = np.concatenate([chunk.reshape(-1, *chunk.shape[2:]) for chunk in chunks])
    return frames[: source.num_frames], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "checkpoints" / "demo")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--budget", type=int, default=1024)
    args = parser.parse_args()
    tempo = tempo_jax.load(args.checkpoint)
    options = {"budget": args.budget, "max_new_tokens": NEW_TOKENS}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "video.mp4")
        write_video(path, SyntheticVideo(seconds=args.seconds, fps=25, height=360, width=640))
        clip = tempo.open(path)
        clip.ask(QUESTION, **options)  # compiles
        frames, decoding = decoded(tempo, clip, path)
        tempo.ask(frames, QUESTION, **options)  # whose time tags may fill another bucket
        started = time.perf_counter()
        clip = tempo.open(frames)
        looking = time.perf_counter() - started
        times = clip.ask(QUESTION, **options).timings
        started = time.perf_counter()
        answer = tempo.ask(path, QUESTION, **options)
        together = time.perf_counter() - started
    stages = {
        "decoding the file": decoding,
        "resizing and vision tower": looking,
        "compressor": times["compress"],
        "allocation, packing, prefill": times["first_token"] - times["compress"],
        f"writing {len(answer.token_ids)} tokens": times["total"] - times["first_token"],
    }
    total = sum(stages.values())
    frames, kept = answer.usage["frames"], answer.usage["visual_tokens"]
    print(f"{args.seconds} s of 640x360 H.264, {frames} frames, {kept} visual tokens kept")
    for name, seconds in stages.items():
        print(f"{name}: {seconds:.2f} s, {seconds / total:.0%}")
    computing = total - decoding
    hidden = (total - together) / min(decoding, computing)
    print(f"one after the other {total:.2f} s, in `ask` {together:.2f} s: of decoding ({decoding:.2f} s)")
    print(f"and computing ({computing:.2f} s), {hidden:.0%} of the shorter hides behind the other")


if __name__ == "__main__":
    main()
