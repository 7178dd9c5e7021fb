"""The config of an evaluation: one ConfigDict, checked before anything slow happens.

Every configs/eval_*.py starts from `default()` and changes a few fields.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from tempo_jax.errors import TempoError
from tempo_jax.evaluation import settings
from tempo_jax.evaluation.protocols import benchmark
from tempo_jax.evaluation.systems import SYSTEMS
from tempo_jax.tempo.options import MIN_TOKENS
from tempo_jax.utils import config_fields
from tempo_jax.utils.paths import MOUNT, check_scheme, remote, url
from tempo_jax.video.sources import SAMPLINGS

RENAMED = config_fields.RENAMED["eval"]
VIDEO_CACHES = ("vision", "prefix")
DTYPES = ("", "bfloat16", "float32", "int8", "fp8")
# Fields that may differ when a run is resumed: those that change no answer. Values of the grid's axes may be
# added and removed; settings with answers are not asked again.
RESUME_MUTABLE_FIELDS = (
    "checkpoint", "data", "limit", "allow_missing", "video_cache", "decode_workers", "prefetch_mib",
    "chunk_segments", "mesh", "show_published", *settings.AXES,
)  # fmt: skip


def default() -> ConfigDict:
    """Returns all fields with their types and default values; `check` rejects unknown ones."""
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
    config.allow_missing = False  # True: runs although more than 1 % of the videos are missing

    # Of sampling, as published (docs/reference/tempo.md#evaluation-protocol)
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
    config.decode_batch = 4  # answers, about one video or several, that are decoded together
    config.video_cache = "vision"  # or prefix: what is cached of a video for its next questions
    config.chunk_segments = 8  # segments at a time, per device
    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})  # over the devices of one process
    config.decode_workers = 1  # processes that decode the next videos; 0: videos are decoded when needed
    config.prefetch_mib = 2048  # MiB of decoded frames in their queues
    config.show_published = True  # published numbers beside the measured ones
    return config_fields.with_old_names(config, RENAMED)


def check(config: ConfigDict) -> None:
    """Raises one TempoError that names every invalid value and unknown field."""
    if config.system not in SYSTEMS:
        raise TempoError(f"config.system is {config.system!r}: use one of {', '.join(SYSTEMS)}")
    benchmark(config.benchmark, config.system)
    config_fields.check_known(config, default())
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
    for name, allowed in (("video_cache", VIDEO_CACHES), ("dtype", DTYPES), ("sampling", SAMPLINGS)):
        if config[name] not in allowed:
            yield f"config.{name} is {config[name]!r}: use one of {', '.join(filter(None, allowed))}"
    if config.subtitles and "subtitles" not in benchmark(config.benchmark, config.system).optional:
        yield f"config.subtitles is True, but {config.benchmark} has none here: leave it out"
    if config.fps <= 0:
        yield f"config.fps is {config.fps}: it must be above 0"
    if not 0 <= config.drop_ratio <= 1:
        yield f"config.drop_ratio is {config.drop_ratio}: it must be from 0 to 1"
    for name, least in _MINIMA:
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


_MINIMA = (
    ("limit", 0), ("min_frames", 1), ("seed", 0), ("context_length", 1), ("decode_batch", 1),
    ("chunk_segments", 1), ("decode_workers", 0), ("prefetch_mib", 1),
)  # fmt: skip


def resume_key(config: ConfigDict) -> dict[str, Any]:
    """Returns, as plain values, what answers depend on besides settings: a run resumes only with the same."""
    of_others = set(SYSTEMS) - {config.system}
    names = sorted(set(config.keys()) - set(RESUME_MUTABLE_FIELDS) - of_others)
    values = ((name, config[name]) for name in names)
    return {name: value.to_dict() if isinstance(value, ConfigDict) else value for name, value in values}


def check_same_run(saved: dict[str, Any], now: dict[str, Any], workdir: Any) -> None:
    """Raises TempoError when what answers depend on has changed since the run in `workdir` started."""
    saved = {name: value for name, value in resume_key(default()).items() if name in now} | (
        config_fields.migrate(saved, RENAMED)
    )
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
