"""Questions about a video beside the original on the same CPU: CPU seconds, wall clock and memory.

    python benchmarks/beside_original.py                     64 frames, float32, five rounds
    python benchmarks/beside_original.py --frames 64,128,256 --dtypes float32,bfloat16
    python benchmarks/beside_original.py --small             a smoke test of seconds

A random model in the published layout is written first (0.57 B parameters, 0.27 B of them embeddings). The
original's stages are expressed from transformers' modules (`original_pytorch.py`). Each system has a process
of its own, and the two take turns: both answer the same question about the same file in each round, after a
round that compiles every shape and is not counted. Token ids and allocations are compared first. The original
decodes and encodes the video for every question, so its time of a question is the denominator of all rows.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tempo_jax.models.presets import TEMPO_6B, TINY  # noqa: E402

SIDES = ("original", "ours")
BATCH = 4  # questions that are decoded together
TOKENS_PER_FRAME = 8
# What is asked of ours -> the label of its row. The original has one way.
WAYS = {
    "first": "first question",
    "vision": "further question, vision features kept",
    "prefix": "further question, prefix cache",
    "batched": f"further question, prefix cache, {BATCH} decoded together",
}
STAGES = ("decode", "preprocess", "vision", "compressor", "prefill", "generate")
LIMIT = 1e-4  # of relevance in float32


def architecture(small: bool):
    """Tempo at a third to a half of its published widths and depths.

    The vocabulary is whole, and vision tower and compressor share the work about as they do in Tempo-6B.
    """
    if small:
        return dataclasses.replace(TINY, memory_tokens=128)
    svlm = TEMPO_6B.compressor
    text = dataclasses.replace(
        svlm.text, hidden_size=1024, intermediate_size=3072, num_layers=12, num_heads=8, num_kv_heads=4
    )
    vision = dataclasses.replace(
        svlm.vision, hidden_size=512, intermediate_size=2048, depth=12, num_heads=8,
        deepstack_layers=(2, 5, 8), out_hidden_size=text.hidden_size,
    )  # fmt: skip
    llm = dataclasses.replace(
        TEMPO_6B.llm, hidden_size=768, intermediate_size=2304, num_layers=10, num_heads=8, num_kv_heads=4
    )
    compressor = dataclasses.replace(svlm, vision=vision, text=text)
    return dataclasses.replace(TEMPO_6B, compressor=compressor, llm=llm)


def prepare(folder: Path, small: bool) -> None:
    """Writes weights in the published layout, the native checkpoint, and the video."""
    from convert import from_hf
    from examples import tiny_reference
    from tempo_jax.video.synthetic import SyntheticVideo, write_video

    source, base = tiny_reference.write(folder, architecture(small))
    from_hf.convert("tempo", source, folder / "native", base=base)
    seconds, height, width = (40, 180, 320) if small else (600, 360, 640)
    clip = SyntheticVideo(seconds=seconds, fps=25, height=height, width=width)
    write_video(folder / "video.mp4", clip, gop=250)  # x264's default


class Clock:
    """CPU and wall-clock seconds since it was made, or since the latest lap."""

    def __init__(self):
        self.started = (time.process_time(), time.perf_counter())

    def lap(self) -> dict[str, float]:
        now, before = (time.process_time(), time.perf_counter()), self.started
        self.started = now
        return {"cpu": now[0] - before[0], "wall": now[1] - before[1]}


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def memory(field: str) -> float:
    """A field of /proc/self/status in MiB: VmRSS is resident memory, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


class Original:
    """Its side: every way of asking is the same."""

    def __init__(self, folder: Path, dtype: str, small: bool):
        import torch

        from benchmarks import original_pytorch

        torch.set_num_threads(os.cpu_count())
        self.system = original_pytorch.Original(
            folder / "Tempo-6B",
            folder / "Qwen3-VL-2B-Instruct",
            getattr(torch, dtype),
            architecture(small),
        )
        self.video = folder / "video.mp4"

    def ask(self, way: str, frames: int, questions: list[str], new_tokens: int) -> list:
        return [
            self.system.ask(
                self.video, question, max_frames=frames, budget=TOKENS_PER_FRAME * frames,
                new_tokens=new_tokens, stage=lambda name: None,
            )
            for question in questions
        ]  # fmt: skip

    def stages(self, frames: int, question: str, new_tokens: int) -> dict:
        clock, seconds = Clock(), {}
        self.system.ask(
            self.video, question, max_frames=frames, budget=TOKENS_PER_FRAME * frames,
            new_tokens=new_tokens, stage=lambda name: seconds.update({name: clock.lap()}),
        )  # fmt: skip
        return seconds


class Ours:
    def __init__(self, folder: Path, dtype: str, small: bool):
        import tempo_jax

        self.tempo = tempo_jax.load(folder / "native", dtype=dtype)
        self.video, self.clips = folder / "video.mp4", {}

    def ask(self, way: str, frames: int, questions: list[str], new_tokens: int) -> list:
        from tempo_jax.runtime.session import GenerationRequest
        from tempo_jax.tempo.options import Options

        options = {"budget": TOKENS_PER_FRAME * frames, "max_new_tokens": new_tokens}
        if way == "first":
            answers = [
                self.tempo.ask(self.video, question, max_frames=frames, **options) for question in questions
            ]
        else:
            clip = self.clips[way != "vision"]
            requests = [GenerationRequest(question, Options(**options)) for question in questions]
            clip.answer(requests)
            answers = [request.answer for request in requests]
        return [
            (a.token_ids, [s.tokens for s in a.segments], [s.relevance for s in a.segments]) for a in answers
        ]

    def open(self, frames: int) -> None:
        """Opens the video for further questions, with each kind of cache."""
        self.clips = {}
        for prefix_cache in (False, True):
            self.clips[prefix_cache] = self.tempo.open(
                self.video, max_frames=frames, prefix_cache=prefix_cache
            )

    def stages(self, frames: int, question: str, new_tokens: int) -> dict:
        """Each stage alone, waiting for it to end; in `ask` decoding and computation overlap."""
        import jax
        import numpy as np

        from tempo_jax.runtime import generate
        from tempo_jax.tempo import layout, steps
        from tempo_jax.tempo.options import Options

        clock, seconds, tempo = Clock(), {}, self.tempo
        options = Options(budget=TOKENS_PER_FRAME * frames, max_new_tokens=new_tokens)

        def lap(name: str, result=None) -> None:
            jax.block_until_ready(result)
            seconds[name] = clock.lap()

        clip = tempo.open(self.video, max_frames=frames, keep=False)
        place, compressor = tempo.place, tempo.model.compressor
        chunks = list(layout.chunk_frames(clip.source, clip.layout))
        lap("decode")
        with place():
            resized = [
                steps.resize(place.put(chunk), steps=clip.layout.steps, image=False) for chunk in chunks
            ]
            lap("preprocess", resized)
            visual = [steps.encode_frames(compressor, chunk) for chunk in resized]
            lap("vision", visual)
        # The engine's own way from here, which finds the visual tokens cached.
        clip._features._keep, clip._features._cached_chunks = True, visual
        with place():
            memory_SKD = clip._compress(question, None)
            lap("compressor", memory_SKD)
        clip._max_cached_questions = 1
        clip._memory_cache[question] = memory_SKD
        request = clip.prefill(question, options)
        lap("prefill", request.prefilled)
        with place():
            state = generate.decode(
                tempo.model.llm, request.prefilled.state, np.full(1, new_tokens, np.int32), greedy=True,
                eos=tempo.config.eos_ids,
            )  # fmt: skip
        np.asarray(state.tokens_BN)
        lap("generate", state)
        return seconds


def serve(side: str, folder: Path, dtype: str, small: bool) -> None:
    """The process of a side: a JSON command a line on stdin, its JSON result on stdout."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no result
    started = time.perf_counter()
    system = {"original": Original, "ours": Ours}[side](folder, dtype, small)
    loaded = {"cpu": time.process_time(), "wall": time.perf_counter() - started}
    print(json.dumps({**loaded, "resident": memory("VmRSS"), "peak": memory("VmHWM")}), file=out, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        name = command.pop("name")
        reset_peak()
        clock = Clock()
        result = getattr(system, name)(**command)
        print(json.dumps({"result": result, **clock.lap(), "peak": memory("VmHWM")}), file=out, flush=True)


class Side:
    """A system's process."""

    def __init__(self, name: str, args: argparse.Namespace, folder: Path, dtype: str):
        command = [sys.executable, __file__, "--side", name, "--folder", str(folder), "--dtypes", dtype]
        command += ["--small"] if args.small else []
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.loaded = self._receive()

    def __call__(self, name: str, **arguments) -> dict:
        self.process.stdin.write(json.dumps({"name": name, **arguments}) + "\n")
        self.process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended with status {self.process.wait()}: its error is above")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def question(number: int) -> str:
    return f"What happens after the ball has left the picture, part {number:03}?"


def compare(ours: list, original: list, dtype: str) -> str:
    """Compares ids, allocations and relevance of questions; exits where float32 differs."""
    pairs = list(zip(ours, original, strict=True))
    same_ids = sum(a[0] == b[0] for a, b in pairs)
    same_allocations = sum(a[1] == b[1] for a, b in pairs)
    apart = max(abs(x - y) for a, b in pairs for x, y in zip(a[2], b[2], strict=True))
    line = (
        f"{same_ids} of {len(pairs)} answers with the same ids, {same_allocations} with the same "
        f"allocation, relevance within {apart:.1e}"
    )
    if dtype == "float32" and (min(same_ids, same_allocations) < len(pairs) or apart > LIMIT):
        raise SystemExit(f"the two systems differ: {line}")
    return line


@dataclasses.dataclass
class Measured:
    """What one number of frames and one dtype gave: way or stage -> side -> samples."""

    agreement: str
    ways: dict
    stages: dict
    peaks: dict


def measure(sides: dict[str, Side], frames: int, dtype: str, args, progress: Callable) -> Measured:
    count = iter(range(1000))
    common = {"frames": frames, "new_tokens": args.new_tokens}

    def ask(side: str, way: str, questions: list[str]) -> dict:
        progress(f"{dtype}, {frames} frames, {side}: {way}")
        return sides[side]("ask", way=way, questions=questions, **common)

    ways = args.ways.split(",")
    found: dict = {way: {side: [] for side in SIDES} for way in ways}
    peaks = dict.fromkeys(SIDES, 0.0)
    answers: dict[str, list] = {side: [] for side in SIDES}
    for number in range(-1, args.rounds):  # the first one compiles, and is not counted
        asked = [question(next(count)) for _ in range(BATCH)]
        original = ask("original", "first", asked[:1])
        if number < 0:
            sides["ours"]("open", frames=frames)
        for way in ways:
            questions = asked if way == "batched" else asked[:1]
            given = ask("ours", way, questions)
            answers["ours"].append(given["result"][0])
            answers["original"].append(original["result"][0])
            if way == "first":
                peaks["ours"] = max(peaks["ours"], given["peak"])
            if number >= 0:
                share = {key: given[key] / len(questions) for key in ("cpu", "wall")}
                found[way]["ours"].append(share)
                found[way]["original"].append({key: original[key] for key in ("cpu", "wall")})
        peaks["original"] = max(peaks["original"], original["peak"])
    agreement = compare(answers["ours"], answers["original"], dtype)
    stages: dict = {stage: {side: [] for side in SIDES} for stage in STAGES}
    for number in range(-1, args.stage_rounds) if args.stage_rounds else ():
        for side in SIDES:
            progress(f"{dtype}, {frames} frames, {side}: stages")
            seconds = sides[side]("stages", question=question(next(count)), **common)["result"]
            for stage in STAGES:
                stages[stage][side] += [seconds[stage]] if number >= 0 else []
    return Measured(agreement, found, stages, peaks)


def cell(samples: list[dict], key: str) -> str:
    """Median, and the range in parentheses."""
    values = [sample[key] for sample in samples]
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def ratio(row: dict, key: str) -> float:
    middle = {side: statistics.median(sample[key] for sample in row[side]) for side in SIDES}
    return middle["ours"] / middle["original"]


def table(measured: Measured) -> list[str]:
    lines = ["| | original, CPU s | ours, CPU s | ratio | ratio of wall clock |", "|---|---|---|---|---|"]
    rows = {WAYS[way]: row for way, row in measured.ways.items()} | measured.stages
    for label, row in rows.items():
        if row["ours"]:
            cells = [label, cell(row["original"], "cpu"), cell(row["ours"], "cpu")]
            cells += [f"{ratio(row, 'cpu'):.2f}", f"{ratio(row, 'wall'):.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    peaks = measured.peaks
    share = peaks["ours"] / peaks["original"]
    lines.append(f"| peak memory, MiB | {peaks['original']:.0f} | {peaks['ours']:.0f} | {share:.2f} | |")
    return lines


def run(args: argparse.Namespace, folder: Path) -> dict:
    def progress(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)

    if not (folder / "video.mp4").is_file():
        progress("writing weights and video")
        prepare(folder, args.small)
    results = {}
    for dtype in args.dtypes.split(","):
        sides = {name: Side(name, args, folder, dtype) for name in SIDES}
        loaded = {name: side.loaded for name, side in sides.items()}
        print(f"\n## {dtype}\n\nloading: {json.dumps(loaded)}")
        for frames in map(int, args.frames.split(",")):
            measured = measure(sides, frames, dtype, args, progress)
            print(f"\n{dtype}, {frames} frames: {measured.agreement}\n")
            print("\n".join(table(measured)), flush=True)
            results[f"{dtype} {frames}"] = dataclasses.asdict(measured) | {"loaded": loaded}
        for side in sides.values():
            side.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", default="64", help="with commas between; 8 tokens a frame are kept")
    parser.add_argument("--dtypes", default="float32", help="float32, bfloat16 or both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stage-rounds", type=int, default=1, help="rounds of stages alone")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"of {', '.join(WAYS)}: with commas between")
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--small", action="store_true", help="a tiny model and a short video")
    parser.add_argument("--folder", type=Path, help="keeps the weights for another run")
    parser.add_argument("--out", type=Path, help="the samples as JSON")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        serve(args.side, args.folder, args.dtypes, args.small)
        return
    with tempfile.TemporaryDirectory() as temporary:
        results = run(args, args.folder or Path(temporary))
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
