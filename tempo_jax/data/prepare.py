"""Prepare a data set for training: sample, resize and encode frames once, and leave out what is broken.

    python -m tempo_jax.data.prepare --source=data.jsonl --media=media --target=prepared --max-frames=64
    python -m tempo_jax.data.prepare --minireel=train --count=1000 --seconds=64 --model=demo --target=reels

SOURCE: records in any format of docs/guides/data.md: LLaVA, messages, ShareGPT, VideoChat2-IT; JSON,
parquet, webdataset; or a .yaml file that names many sources. TARGET: a TFDS folder (array_record) that
configs name as data.sources kind "prepared", with skipped.jsonl: what was left out, and why. It appears when
all is done; rerun the same command to resume an interrupted run. Work can be shared among processes
(--workers), hosts (--hosts) or the tasks of a Ray cluster (--ray). Exit status: 0 success, 2 usage error, 130
interrupted, 1 internal error (TEMPO_JAX_TRACEBACK=1 shows where).
"""

import argparse
import collections
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempo_jax.errors import TempoError
from tempo_jax.models import config as models
from tempo_jax.models import presets
from tempo_jax.utils import command_line, folders, paths
from tempo_jax.utils.commit import AUTO, add_commit, by_marker
from tempo_jax.utils.paths import AnyPath
from tempo_jax.utils.progress import Reporter
from tempo_jax.utils.text import count
from tempo_jax.video.sampling import check_limits

if TYPE_CHECKING:
    from tempo_jax.data.builders import PreparedBuilder
    from tempo_jax.data.preparation import Limit, Settings

SKIPPED = folders.SKIPPED
STOPPED = "stopped by {signal}; what is finished is kept: rerun the same command to resume"
# readers.FORMATS, as a test checks: --help need not load the readers.
FORMATS = (
    "auto", "videochat2", "messages", "llava", "sharegpt", "pairs", "parquet", "webdataset", "mixture",
)  # fmt: skip
SYSTEM_CONFIGS = (models.TempoConfig, models.XCompConfig)
MODELS = tuple(name for name, config in presets.PRESETS.items() if isinstance(config, SYSTEM_CONFIGS))


def prepare(
    builder: Callable[..., "PreparedBuilder"],
    target: str | os.PathLike,
    overwrite: bool | str = False,
    keep: Sequence[str | os.PathLike] = (),
    *,
    workers: int = 0,
    host: int = 0,
    hosts: int = 1,
    ray: str = "",
    commit: str = AUTO,
    report: Reporter | None = None,
) -> str:
    """Prepares what a builder (Llava or Minireel) defines and returns a report of one paragraph.

    `target` appears when it is complete; what an interrupted run has written is not prepared again.

    Args:
      builder: Makes the builder; called without arguments.
      target: The folder to write, on a disk that all hosts share or in gs://.
      overwrite: As of `folders.atomic_directory`.
      keep: Folders that are read; the target may lie in them but not contain them.
      workers: Number of worker processes of this host; 0 prepares in this process.
      host: Index of this host, from 0.
      hosts: Number of hosts that share the work, each started with the same arguments except `host`.
      ray: Address of a Ray cluster that does the work instead.
      commit: As of `folders.atomic_directory`.
      report: Progress reporter.

    Raises:
      TempoError: The target exists already, or no sample is usable.
    """
    from tempo_jax.data import prepared_set, preparing

    target, report = paths.absolute(paths.path("the target", target)), report or Reporter()
    for source in keep:
        folders.check_apart(target, source, inside=True)
    built = builder()
    identity = built.identity()
    if text := _ready(target, identity):
        if (target / prepared_set.PLAN).exists():  # it was killed after the merge
            _tidy(target, built)
        return text
    in_place = by_marker(target, commit)
    if not (in_place and prepared_set.begun(target)):
        folders.check_replaceable(target, overwrite)
        if in_place:
            paths.remove(target, folders.LAST)
    shards = preparing.shards_of(built, host, hosts)
    with folders.put_together(target, shared=hosts > 1, commit=commit) as (folder, finish):
        if _ready(folder, identity):
            _tidy(folder, built)
            finish()
            return _ready(target, identity)
        begun = (folder / prepared_set.PLAN).exists()
        ours = (prepared_set.begun(folder) or {}).get("identity") == identity
        if hosts == 1 and (not begun or (overwrite and not ours)):
            _clear(folder)
        with prepared_set.opened(folder, built.name, len(built.shards())) as unfinished:
            unfinished.begin(identity)
            if ray:
                preparing.on_ray(built, unfinished, shards, ray, report)
            else:
                preparing.here(built, unfinished, shards, workers, report)
            there = len(unfinished.have())
            if there < unfinished.shards:
                if text := _ready(target, identity):  # another host was the last one
                    return text
                return (
                    f"{target}: the part of host {host} is prepared; {there} of {unfinished.shards} shards "
                    "are there. The host that ends last makes the set of them."
                )
            try:
                total = unfinished.merge(identity, built.metadata)
            except FileNotFoundError:
                if text := _ready(target, identity):
                    return text
                raise
        if not total["counts"].get("samples"):
            _clear(folder)
            raise TempoError(f"There is nothing to prepare: {_skipped_summary(total)}; nothing is written.")
        if not overwrite:
            folders.check_replaceable(target, in_place)
        finish()
    return _report(total, target)


def _tidy(folder: AnyPath, built: Any) -> None:
    from tempo_jax.data import prepared_set

    with prepared_set.opened(folder, built.name, len(built.shards())) as unfinished:
        unfinished.tidy()


def _ready(target: AnyPath, identity: str) -> str:
    """Returns the report of a complete, identical set; "" where there is none."""
    from tempo_jax.data import prepared_set

    found = prepared_set.finished(target)
    if found is None or found.get("identity") != identity:
        return ""
    samples = sum(shard["samples"] for shard in found["shards"])
    return f"{target}: {count(samples, 'sample')} prepared already, with the same options."


def _clear(folder: AnyPath) -> None:
    if paths.remote(folder):
        paths.remove(folder, folders.LAST)
        return
    for path in folder.iterdir():
        paths.remove(path)


def _report(total: dict[str, Any], target: AnyPath) -> str:
    counts = total["counts"]
    kinds = ", ".join(f"{counts[key]} {key.split()[1]}" for key in sorted(counts) if key.startswith("kind "))
    sizes = [(n, key.split()[1]) for key, n in counts.items() if key.startswith("size ")]
    common = ", ".join(f"{size} ({n})" for n, size in sorted(sizes, reverse=True)[:5])
    more = f" and {len(sizes) - 5} more sizes" if len(sizes) > 5 else ""
    text = (
        f"{target}: {count(counts['samples'], 'sample')} prepared ({kinds}), "
        f"{count(counts['frames'], 'frame')} of {counts['bytes'] / counts['frames'] / 1024:.1f} KiB "
        f"on average, height x width {common}{more}. {_skipped_summary(total).capitalize()}"
    )
    return text + (f"; each is named in {target / SKIPPED}." if total["skipped"] else ".")


def _skipped_summary(total: dict[str, Any]) -> str:
    skipped = total["skipped"]
    reasons = collections.Counter(bad["reason"] for bad in skipped)
    listed = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
    if not reasons:
        return "no sample was skipped"
    first = f"(first, {skipped[0]['where']}: {skipped[0]['message']})"
    named = "" if total["counts"].get("samples") else f" {first}"
    return f"{count(len(skipped), 'sample')} skipped: {listed}{named}"


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = command_line.Parser("tempo_jax.data.prepare", description=__doc__, formatter_class=raw)
    whole, above_0 = command_line.number(int, 1), command_line.number(float, 0, open_end=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--source", type=Path, metavar="FILE", help="records: a file, a folder of them, or a .yaml mixture"
    )
    what.add_argument("--minireel", metavar="SPLIT", help="reels of train, validation or test instead")
    add = parser.add_argument
    add("--media", type=Path, metavar="DIR", help="folder of images and videos (default: SOURCE's)")
    add(
        "--format",
        choices=FORMATS,
        default="auto",
        help="of SOURCE (auto: by its name and each record's keys)",
    )
    add("--target", type=Path, required=True, metavar="DIR", help="data set to write")
    folders.add_overwrite(parser)
    add_commit(parser)
    add("--workers", type=whole, default=1, metavar="N", help="processes that decode and encode (1)")
    add("--hosts", type=whole, default=1, metavar="N", help="how many hosts share the work (1)")
    add(
        "--host",
        type=command_line.number(int, 0),
        default=0,
        metavar="I",
        help="which of them this is, from 0",
    )
    add("--ray", default="", metavar="ADDRESS", help="a Ray cluster that does it: auto, HOST:PORT or local")
    reels = parser.add_argument_group("minireel")
    reels.add_argument("--count", type=whole, default=100, metavar="N", help="reels (100)")
    reels.add_argument(
        "--start", type=command_line.number(int, 0), default=0, metavar="N", help="first one (0)"
    )
    reels.add_argument("--seconds", type=above_0, metavar="S", help="length of each (default: it varies)")
    reels.add_argument(
        "--size", type=command_line.number(int, 32), default=96, metavar="PX", help="drawn at (96)"
    )
    reels.add_argument("--forms", default="choice", metavar="F,…", help="choice, text or both (choice)")
    model = parser.add_argument_group("model and frames")
    add = model.add_argument
    add("--model", choices=MODELS, help="whose frame limits to keep (default: tempo-6b)")
    add("--checkpoint", metavar="DIR", help="the same of a converted or trained model, with its tokenizer")
    add("--fps", type=above_0, default=2.0, metavar="F", help="frames to take per second of video (2)")
    add("--min-frames", type=whole, default=4, metavar="N", help="take no fewer of a video (4)")
    add("--max-frames", type=whole, default=384, metavar="N", help="take no more of a video (384)")
    add("--sampling", choices=command_line.SAMPLINGS, default="time", help=command_line.SAMPLING_HELP)
    add(
        "--source-fps",
        type=above_0,
        metavar="F",
        help="frames per second at which folders and lists of frames were recorded (default: that of --fps)",
    )
    add(
        "--sizes",
        type=_sizes,
        default=(),
        metavar="HxW,…",
        help="the only frame sizes there may be; each sample takes the one nearest in shape (default: any)",
    )
    add(
        "--max-tokens",
        type=whole,
        metavar="N",
        help="leave out what is longer in the LLM (default: the model's context; without --checkpoint "
        "there is no tokenizer, and memory tokens alone are counted)",
    )
    add("--encoding", choices=("jpeg", "webp"), default="jpeg", help="of stored frames (jpeg)")
    add("--quality", type=whole, default=90, metavar="Q", help="of stored frames, 1 to 100 (90)")
    return parser


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    found = [re.fullmatch(r"(\d{1,5})x(\d{1,5})", part) for part in text.split(",")]
    if None in found:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, or several with commas between")
    return tuple((int(match[1]), int(match[2])) for match in found)


def _model(args: argparse.Namespace) -> tuple[models.TempoConfig | models.XCompConfig, Path | None]:
    """The model's architecture and, of a checkpoint, the folder of its tokenizer."""
    if args.checkpoint is None:
        return presets.PRESETS[args.model or "tempo-6b"], None
    if args.model:
        raise TempoError("--model and --checkpoint exclude each other: leave one out.")
    from tempo_jax import checkpoint

    model = checkpoint.read_model_json(args.checkpoint)
    if not isinstance(model.config, SYSTEM_CONFIGS):
        raise TempoError(f"{args.checkpoint} is a model of kind {model.kind}: give a Tempo or an XComp.")
    return model.config, checkpoint.tokenizer_path(args.checkpoint)


def _builder(args: argparse.Namespace) -> Callable[..., "PreparedBuilder"]:
    """The builder that the arguments ask for, still without its folder."""
    from tempo_jax.data import builders

    settings, limit = _settings(args)
    common = {"settings": settings, "limit": limit}
    if args.source is not None:
        return lambda: builders.Llava(source=args.source, media=args.media, form=args.format, **common)
    chosen = {name: getattr(args, name) for name in ("count", "start", "seconds", "size")}
    chosen |= {"split": args.minireel, "forms": tuple(args.forms.split(","))}
    return lambda: builders.Minireel(**chosen, **common)


def _settings(args: argparse.Namespace) -> tuple["Settings", "Limit"]:
    check_limits(args.fps, args.min_frames, args.max_frames)
    from tempo_jax.data.preparation import Limit, Settings
    from tempo_jax.data.records import Encoding

    config, tokenizer = _model(args)
    xcomp = isinstance(config, models.XCompConfig)  # it sees every frame at one size
    settings = Settings(
        video=models.VideoConfig() if xcomp else config.video,
        fps=args.fps,
        min_frames=args.min_frames,
        max_frames=args.max_frames,
        sampling=args.sampling,
        source_fps=args.source_fps,
        encoding=Encoding(args.encoding, args.quality),
        sizes=args.sizes or (((config.vision.image_size,) * 2,) if xcomp else ()),
    )
    return settings, Limit(config, args.max_tokens or config.context_length, tokenizer)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from tempo_jax.utils import progress

    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)

    def command() -> int:
        if args.host >= args.hosts:
            raise TempoError(f"--host is {args.host}: it must be from 0 to {args.hosts - 1} (--hosts).")
        if args.hosts > 1 and args.overwrite:
            raise TempoError("--overwrite and --hosts exclude each other: remove the target first.")
        with progress.reporter(per_second="records") as report:
            read = [path for path in (args.source, args.media, args.checkpoint) if path is not None]
            text = prepare(
                _builder(args),
                args.target,
                args.overwrite,
                read,
                workers=args.workers,
                host=args.host,
                hosts=args.hosts,
                ray=args.ray,
                commit=args.commit,
                report=report,
            )
        print(text)
        return 0

    return command_line.run_on_cpu("prepare", command, STOPPED)


if __name__ == "__main__":
    sys.exit(main())
