"""What an evaluation is: one ConfigDict, checked before anything slow happens.

Every configs/eval_*.py starts from `default()` and changes what is its own.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from tempo_jax.errors import TempoError
from tempo_jax.evaluation import settings
from tempo_jax.evaluation.protocols import benchmark
from tempo_jax.evaluation.systems import SYSTEMS
from tempo_jax.tempo.options import MIN_TOKENS
from tempo_jax.utils.paths import MOUNT, check_scheme, remote, url
from tempo_jax.video.sources import SAMPLINGS

REUSE = ("vision", "prefix")
DTYPES = ("", "bfloat16", "float32", "int8", "fp8")
# What may differ when a run continues: nothing that changes an answer that is there. Values of the grid's
# axes may come and go; those that were asked are not asked again.
FREE = (
    "checkpoint", "data", "limit", "allow_missing", "reuse", "workers", "ahead_mib", "chunk_segments", "mesh",
    "published", *settings.AXES,
)  # fmt: skip


def default() -> ConfigDict:
    """All fields with their types; a field that is not here is a mistake."""
    config = ConfigDict()
    config.system = "tempo"  # or xcomp: whose prompts, frames and strategies (evaluation.systems.SYSTEMS)
    config.benchmark = ""  # a name in evaluation.benchmarks.BENCHMARKS
    config.checkpoint = "checkpoints/tempo-6b"  # native
    config.data = ConfigDict()
    config.data.path = ""  # the folder the benchmark was downloaded to
    config.data.annotations = ""  # pattern of its annotation file(s); empty: the usual ones
    config.data.videos = ""  # folder of its videos, in data.path or anywhere; empty: the usual ones
    config.subtitles = False  # in the prompt, where a benchmark has them: longvideobench
    config.limit = 0  # questions, the first ones; 0: all
    config.allow_missing = False  # True: goes on where more than 1 % of the videos are not there

    # Of sampling, as published (facts/tempo.md §5.1)
    config.fps = 2.0
    config.min_frames = 8
    config.sampling = "index"  # as published; time: see video.Reading, and photos and pixels as displayed
    # The grid: every question is asked under every combination. One value or several: 4096,8192
    config.max_frames = (1024,)
    config.budget = (8192,)
    config.strategy = ("head",)  # of the system's, or none: no compression
    config.min_tokens = (MIN_TOKENS,)
    config.max_tokens = (0,)  # 0: all that the model has
    config.drop_ratio = 0.5  # of the strategies prune-*
    config.seed = 0  # of the strategy random, and of random options for replies without a letter

    config.xcomp = ConfigDict()  # of the system xcomp, see its ask
    config.xcomp.repeats = 2
    config.xcomp.causal_scoring = True
    config.xcomp.query_skip = -1  # tokens after the video that do not ask; -1: those of the time message
    config.xcomp.repetition_penalty = 1.0
    config.xcomp.repeat_short = False

    config.context_length = 32_768
    config.dtype = ""  # empty: as stored; int8, fp8: bfloat16, matrices in 8 bits
    config.batch = 4  # questions about one video whose answers are written together
    config.reuse = "vision"  # or prefix: what is kept of a video for its further questions
    config.chunk_segments = 8  # segments at a time, per device
    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})  # over a process's own devices
    config.workers = 1  # processes that decode the next videos; 0: none, each is decoded when it is asked
    config.ahead_mib = 2048  # of frames that they may be ahead
    config.published = True  # published numbers beside ours
    return config


def check(config: ConfigDict) -> None:
    """Raises one TempoError that names everything wrong with the values."""
    if config.system not in SYSTEMS:
        raise TempoError(f"config.system is {config.system!r}: use one of {', '.join(SYSTEMS)}")
    benchmark(config.benchmark, config.system)
    problems = list(_problems(config))
    if problems:
        raise TempoError("; ".join(problems))


def _problems(config: ConfigDict) -> Iterator[str]:
    for name, value in (("checkpoint", config.checkpoint), ("data.path", config.data.path)):
        if not value:
            yield f"config.{name} is empty: give a folder"
        elif wrong := check_scheme(f"config.{name}", value):
            yield wrong
    if found := url(config.data.videos):
        yield f"config.data.videos is the URL {found}: {MOUNT}"
    elif remote(config.data.path) and not config.data.videos:
        yield (
            "config.data.path is in gs://, from where no video is opened: give the folder that has them as "
            "config.data.videos"
        )
    for name, allowed in (("reuse", REUSE), ("dtype", DTYPES), ("sampling", SAMPLINGS)):
        if config[name] not in allowed:
            yield f"config.{name} is {config[name]!r}: use one of {', '.join(filter(None, allowed))}"
    if config.subtitles and "subtitles" not in benchmark(config.benchmark, config.system).optional:
        yield f"config.subtitles is True, but {config.benchmark} has none here: leave it out"
    if config.fps <= 0:
        yield f"config.fps is {config.fps}: it must be above 0"
    if not 0 <= config.drop_ratio <= 1:
        yield f"config.drop_ratio is {config.drop_ratio}: it must be from 0 to 1"
    for name, least in _LEAST:
        if config[name] < least:
            yield f"config.{name} is {config[name]}: it must be at least {least}"
    yield from _axis_problems(config)


def _axis_problems(config: ConfigDict) -> Iterator[str]:
    for name in settings.AXES:
        if not settings.axis(config, name):
            yield f"config.{name} is empty: give at least one value"
    known = SYSTEMS[config.system].strategies
    for value in settings.axis(config, "strategy"):
        if value not in known:
            yield f"config.strategy has {value!r}: use some of {', '.join(known)}"
    for name in set(settings.AXES) - set(SYSTEMS[config.system].axes):
        if settings.axis(config, name) != default()[name]:
            yield f"config.{name} means nothing to the system {config.system}: leave it out"
    for name, least in (
        ("max_frames", config.min_frames),
        ("budget", 1),
        ("min_tokens", 0),
        ("max_tokens", 0),
    ):
        for value in settings.axis(config, name):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                yield f"config.{name} has {value!r}: it must be a whole number of at least {least}"


_LEAST = (
    ("limit", 0), ("min_frames", 1), ("seed", 0), ("context_length", 1), ("batch", 1), ("chunk_segments", 1),
    ("workers", 0), ("ahead_mib", 1),
)  # fmt: skip


def identity(config: ConfigDict) -> dict[str, Any]:
    """What an answer depends on besides its setting, as plain values: a run goes on only with the same."""
    of_others = set(SYSTEMS) - {config.system}
    names = sorted(set(config.keys()) - set(FREE) - of_others)
    values = ((name, config[name]) for name in names)
    return {name: value.to_dict() if isinstance(value, ConfigDict) else value for name, value in values}


def check_same_run(saved: dict[str, Any], now: dict[str, Any], workdir: Any) -> None:
    """TempoError when what answers depend on has changed since the run in `workdir` was begun."""
    saved = {name: value for name, value in identity(default()).items() if name in now} | saved
    changed = [
        f"{name} was {saved.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(saved.keys() | now.keys())
        if saved.get(name) != now.get(name)
    ]
    if changed:
        raise TempoError(
            f"{workdir} holds a run with other settings ({'; '.join(changed)}): choose another --workdir, or "
            "the old settings to continue it"
        )
