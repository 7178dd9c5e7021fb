"""CPU time, sampled frames per second and peak memory of our decoder next to plain PyAV, OpenCV and decord.

    python benchmarks/decode.py                  # 300 s of 640x360 H.264: 2, 0.5 fps, 64, 8 uniform frames
    python benchmarks/decode.py --height 720
    python benchmarks/decode.py --long           # peak memory at 600 s and 4101 s
    python benchmarks/decode.py --open           # opening an hour, beside reading its packets by PyAV

Every measurement is a process of its own, so that its peak memory is its own; of `--repeat` rounds, in which
the methods take turns, the fastest of each counts. All must give the same number of frames, and ours the very
same pixels as PyAV's. decord is left out where it is not installed (pip install decord).
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

# Frames asked for: (name, options of open_video).
SAMPLINGS = {
    "2 fps": {"fps": 2.0, "max_frames": 1024},
    "0.5 fps": {"fps": 0.5, "max_frames": 1024},
    "64 uniform": {"fps": 2.0, "max_frames": 64},
    "8 uniform": {"fps": 2.0, "max_frames": 8},
}


def ours(path: str, options: dict):
    from tempo_jax.video import open_video

    for chunk in open_video(path, **options).chunks(16):
        yield from chunk


def _wanted(path: str, options: dict) -> list[int]:
    """The same indices, from the header's frame count (true for our own files), in no time."""
    import av

    from tempo_jax.video import sample_indices

    with av.open(path) as container:
        stream = container.streams.video[0]
        return sample_indices(stream.frames, float(stream.average_rate), **options).tolist()


def pyav(path: str, options: dict):
    """Decode everything in order, convert what is wanted."""
    import av

    wanted = _wanted(path, options)
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        place = 0
        for number, frame in enumerate(container.decode(video=0)):
            if number == wanted[place]:
                yield frame.to_ndarray(format="rgb24")
                place += 1
                if place == len(wanted):
                    return


def opencv(path: str, options: dict):
    """Grab everything in order, retrieve what is wanted."""
    import cv2

    wanted = _wanted(path, options)
    capture = cv2.VideoCapture(path)
    number = -1
    for index in wanted:
        while number < index:
            capture.grab()
            number += 1
        yield cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
    capture.release()


def decord(path: str, options: dict):
    """Asked for one frame after the other, so that it holds no more than the others."""
    import decord

    reader = decord.VideoReader(path)
    for index in _wanted(path, options):
        yield reader[index].asnumpy()


def opening(path: str, options: dict):
    """Our index of a file and its first frame; no frame is given out."""
    from tempo_jax.video import open_video

    open_video(path, **options)
    yield from ()


def demuxing(path: str, options: dict):
    """The packets of the video stream alone: what any index has to read."""
    import av

    with av.open(path) as container:
        for _ in container.demux(video=0):
            pass
    yield from ()


METHODS = {"ours": ours, "pyav": pyav, "opencv": opencv, "decord": decord}
OPENING = {"opening": opening, "demuxing": demuxing}


def measure_here(method: str, path: str, options: dict) -> None:
    """Run one measurement in this process and print it as JSON."""
    # Imports are not decoding; first use of each library is paid for before the clock starts.
    import av  # noqa: F401

    from tempo_jax.video import decode, sources  # noqa: F401

    if method in ("opencv", "decord"):
        importlib.import_module({"opencv": "cv2"}.get(method, method))
    start, cpu, frames, checksum = time.perf_counter(), time.process_time(), 0, 0
    for frame in (METHODS | OPENING)[method](path, options):
        frames += 1
        checksum = zlib.crc32(frame.data if frame.flags.c_contiguous else frame.tobytes(), checksum)
    result = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps(result | {"frames": frames, "peak_mib": peak_mib(), "checksum": checksum}))


def peak_mib() -> float:
    """Peak resident memory of this program; getrusage's would include the parent's before exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def measure(method: str, path: Path, options: dict) -> dict:
    command = [sys.executable, __file__, "--child", method, str(path), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{method} failed on {path}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def best(methods: Iterable[str], path: Path, options: dict, repeat: int) -> dict[str, dict]:
    """The run of least CPU time of each, taken in turns so that a busy machine is everybody's."""
    runs: dict[str, list[dict]] = {method: [] for method in methods}
    for _ in range(repeat):
        for method, done in runs.items():
            done.append(measure(method, path, options))
    return {method: min(done, key=lambda run: run["cpu_seconds"]) for method, done in runs.items()}


def make(folder: Path, seconds: int, fps: int, height: int, noise: float) -> Path:
    from tempo_jax.video.synthetic import SyntheticVideo, write_video

    width = {96: 128, 360: 640, 720: 1280}.get(height, height * 16 // 9 // 2 * 2)
    path = folder / f"bench_{seconds}s_{height}p_{fps}fps_noise{noise:g}.mp4"
    if not path.exists():
        print(f"making {path} ...", flush=True)
        partial = path.with_suffix(".partial.mp4")
        clip = SyntheticVideo(seconds=seconds, fps=fps, height=height, width=width, noise=noise)
        write_video(partial, clip, gop=250)
        partial.rename(path)
    return path


def compare(path: Path, repeat: int) -> None:
    print(f"{path.name}: sampled frames/s (seconds, CPU seconds, peak MiB), and CPU seconds over ours")
    methods = [m for m in METHODS if m != "decord" or importlib.util.find_spec(m)]
    for name, options in SAMPLINGS.items():
        results = best(methods, path, options, repeat)
        rates = {m: r["frames"] / r["seconds"] for m, r in results.items()}
        cells = [
            f"{m} {rates[m]:.1f} ({r['seconds']:.2f} s, {r['cpu_seconds']:.2f} CPU, {r['peak_mib']:.0f} MiB)"
            for m, r in results.items()
        ]
        row_records = results["ours"]["cpu_seconds"]
        ratios = [f"{m} {results[m]['cpu_seconds'] / row_records:.2f}" for m in methods]
        same = results["ours"]["checksum"] == results["pyav"]["checksum"]
        count = results["ours"]["frames"]
        print(f"  {name:>10} = {count:4d} frames: {'  '.join(cells)}  -> {', '.join(ratios)}", end="")
        print("  same pixels as pyav" if same else "  PIXELS DIFFER FROM PYAV", flush=True)


def long(folder: Path) -> None:
    peaks = []
    for seconds in (600, 4101):
        path = make(folder, seconds, 5, 96, 0.0)
        result = measure("ours", path, SAMPLINGS["2 fps"])
        peaks.append(result["peak_mib"])
        speed = f"{result['frames']} frames in {result['seconds']:.2f} s"
        print(f"{seconds} s: {speed}, peak {result['peak_mib']:.1f} MiB")
    print(f"6.8 times the length costs {peaks[1] - peaks[0]:+.1f} MiB")


def open_hour(folder: Path, repeat: int) -> None:
    path = make(folder, 3600, 30, 96, 0.0)
    records = best(OPENING, path, {}, repeat)
    opened, demuxed = (records[name]["cpu_seconds"] for name in ("opening", "demuxing"))
    print(
        f"{path.name}: opened in {opened:.2f} CPU seconds, its packets read in {demuxed:.2f}: "
        f"{opened / demuxed:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/tempo_jax_bench"), help="keeps the videos")
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--long", action="store_true", help="peak memory at 600 s and 4101 s")
    parser.add_argument("--open", action="store_true", help="what opening an hour-long file costs")
    parser.add_argument("--child", nargs=3, metavar=("METHOD", "PATH", "OPTIONS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        method, path, options = arguments.child
        measure_here(method, path, json.loads(options))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.long:
        long(arguments.folder)
    elif arguments.open:
        open_hour(arguments.folder, arguments.repeat)
    else:
        compare(make(arguments.folder, arguments.seconds, 25, arguments.height, 8.0), arguments.repeat)


if __name__ == "__main__":
    main()
