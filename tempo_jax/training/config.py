"""What a training run is: one ConfigDict, checked before anything slow happens.

Every file in configs/ starts from `default()` and changes what is its own.
"""

from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from tempo_jax.errors import TempoError
from tempo_jax.models.layers import parse_remat_policies
from tempo_jax.models.presets import PRESETS
from tempo_jax.tasks import TASKS
from tempo_jax.training.groups import LEARNABLE
from tempo_jax.training.loggers import LOGGERS
from tempo_jax.training.optimiser import KINDS
from tempo_jax.utils.paths import check_scheme
from tempo_jax.xcomp.token_compression import VARIANTS

ANSWERING = ("tempo", "xcomp")  # tasks whose models are whole systems
DTYPES = ("bfloat16", "float32")
COMMITS = ("auto", "marker")
# What may differ when a run continues: nothing that changes a number of it on the same devices.
FREE = (
    "mesh", "steps", "remat", "data.workers", "data.threads", "log_every", "checkpoint_every", "checkpoints",
    "keep", "fallback", "commit", "watchdog", "validation", "loggers", "max_not_finite", "profile_step",
    "init",
)  # fmt: skip


def default() -> ConfigDict:
    """All fields with their types; a field that is not here is a mistake."""
    config = ConfigDict()
    config.seed = 0
    config.task = "tempo"  # tasks.TASKS
    config.model = ""  # a name in models.presets.PRESETS; empty: the architecture of init.checkpoint

    config.compression = ""  # task xcomp: a name in token_compression.VARIANTS; empty: as the model has it

    config.init = ConfigDict()
    config.init.checkpoint = ""  # native checkpoint of the task's own kind
    config.init.compressor = ""  # task tempo: native qwen3-vl checkpoint that fills compressor/*
    config.init.llm = ""  # task tempo: native qwen3 checkpoint that fills llm/*, also over init.checkpoint
    # Folder of tokenizer files, or a name in start.OWN_TOKENIZERS; empty: that of init.checkpoint or
    # init.compressor.
    config.init.tokenizer = ""

    config.rates = ConfigDict(dict.fromkeys(LEARNABLE, 0.0))  # peak learning rates; 0 freezes
    config.optimiser = ConfigDict()
    config.optimiser.kind = "adamw"  # training.optimiser.KINDS
    config.optimiser.warmup_ratio = 0.03
    config.optimiser.weight_decay = 0.0
    config.optimiser.clip_norm = 1.0
    config.optimiser.b1 = 0.9
    config.optimiser.b2 = 0.999
    config.optimiser.final_ratio = 0.0  # of the peak, at the last step
    config.steps = 1000

    config.batch = ConfigDict()
    config.batch.shards = 1  # independent parts of the global batch, whoever builds them
    config.batch.micro_batches = 1  # whose gradients are added up
    # Of one shard's one micro-batch (batch_packing.Shape):
    config.batch.pool = 16
    config.batch.row_length = 768
    config.batch.conversations = 1
    config.batch.length = 4096
    config.batch.buckets = ()  # of task xcomp: clips of a conversation at most, up to pool (data.buckets)
    config.batch.sizes = ()  # (height, width) of frames, step after step; empty: the data's only one

    config.data = ConfigDict()
    config.data.sources = ()  # ConfigDicts {kind="prepared", path, weight} or {kind="minireel", split, …}
    config.data.window = 64  # samples looked at together for packing
    config.data.workers = 0  # processes that read ahead, per shard
    # That read, per shard: so many hide the 40 ms of an object store (benchmarks/storage_read.py).
    config.data.threads = 16

    config.validation = ConfigDict()
    config.validation.every = 0  # steps; 0 for never
    config.validation.sources = ()  # as data.sources, of data that are not trained on
    config.validation.batches = 8  # of the size of a step's
    # ConfigDicts {video, question, max_frames (may be left out)}, of tasks tempo and xcomp: answered by the
    # weights as they are.
    config.validation.questions = ()
    config.validation.max_new_tokens = 32
    config.loggers = ("tensorboard",)  # names in training.loggers.LOGGERS

    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})  # -1: whatever devices are left
    config.dtype = "bfloat16"  # of the computation; master weights are float32
    # What the backward pass computes again (models.layers.REMAT_POLICIES): for all, or for each stack of
    # layers in the order in which they run, as "full,full,attention" for vision tower, compressor and LLM.
    config.remat = "full"

    config.log_every = 10  # steps, as the next ones
    config.checkpoint_every = 500
    # Which checkpoints stay: the `latest`, those whose step is a multiple of `every`, the `best` by
    # validation loss (of steps that are both saved and validated); 0 for none.
    config.checkpoints = ConfigDict({"latest": 2, "every": 0, "best": 0})
    # How a checkpoint becomes whole: "auto" (renamed on a disk, a marker in gs://) or "marker" everywhere,
    # for file systems that do not rename folders at once (gcsfuse).
    config.commit = "auto"
    config.fallback = True  # a damaged last checkpoint is set aside, and the one before is used
    # When nothing has moved for that many seconds: `say` who keeps the others waiting, `stop` with status 75.
    config.watchdog = ConfigDict({"say": 120.0, "stop": 1800.0})
    config.max_not_finite = 10  # in a row before training stops
    config.profile_step = -1  # traced into workdir/profile
    return config


def check(config: ConfigDict) -> None:
    """Raises one TempoError that names everything wrong with the values."""
    problems = list(_problems(config))
    if problems:
        raise TempoError("; ".join(problems))


def _problems(config: ConfigDict) -> Iterator[str]:
    for name, allowed in (("task", TASKS), ("dtype", DTYPES), ("optimiser.kind", KINDS)):
        value = _field(config, name)
        if value not in allowed:
            yield f"config.{name} is {value!r}: use one of {', '.join(allowed)}"
    try:
        parse_remat_policies(config.remat, TASKS[config.task].stacks if config.task in TASKS else 1)
    except TempoError as error:
        yield str(error)
    if config.model and config.model not in PRESETS:
        yield f"config.model is {config.model!r}: use one of {', '.join(sorted(PRESETS))}"
    if config.compression:
        if config.task != "xcomp":
            yield f"config.compression is for config.task=xcomp, not {config.task}: leave it empty"
        elif config.compression not in VARIANTS:
            yield f"config.compression is {config.compression!r}: use one of {', '.join(VARIANTS)}"
    if not config.model and not config.init.checkpoint:
        yield "config.model and config.init.checkpoint are both empty: give one of them"
    whole = config.task not in TASKS or TASKS[config.task].kind == "tempo"
    if not whole and (config.init.compressor or config.init.llm):
        yield "config.init.compressor and config.init.llm are for whole models: use config.init.checkpoint"
    for name, path in config.init.items():
        if wrong := check_scheme(f"config.init.{name}", path):
            yield wrong
    if not any(config.rates.values()):
        yield "config.rates are all 0: give at least one group a learning rate"
    if config.task != "xcomp" and config.batch.pool == 0:
        yield "config.batch.pool is 0, which only pictures in config.task=xcomp do without: give at least 1"
    for name, fine, wanted in _BOUNDS:
        value = _field(config, name)
        if not fine(value):
            yield f"config.{name} is {value}: it must be {wanted}"
    if config.commit not in COMMITS:
        yield f"config.commit is {config.commit!r}: it must be one of {', '.join(COMMITS)}"
    yield from _problems_of_validation(config)
    if list(config.mesh.values()).count(-1) > 1:
        yield "config.mesh has more than one -1: only one axis can take whatever is left"


def _problems_of_validation(config: ConfigDict) -> Iterator[str]:
    validation = config.validation
    for name in config.loggers:
        if name not in LOGGERS:
            yield f"config.loggers has {name!r}: use any of {', '.join(LOGGERS)}"
    if validation.every and not validation.sources:
        yield "config.validation.every is set without config.validation.sources: name data to validate on"
    if validation.questions and not validation.every:
        yield "config.validation.questions are asked every config.validation.every steps: set that"
    if validation.questions and config.task not in ANSWERING:
        yield f"config.validation.questions are for config.task={' or '.join(ANSWERING)}, not {config.task}"
    for question in validation.questions:
        if not {"video", "question"} <= set(question):
            yield "config.validation.questions need a video and a question each"
    if config.checkpoints.best and (not validation.every or config.checkpoint_every % validation.every):
        yield (
            "config.checkpoints.best needs a validation at each checkpoint: make config.checkpoint_every a "
            "multiple of config.validation.every"
        )


def _at_least(low: float) -> tuple[Callable[[float], bool], str]:
    return lambda value: value >= low, f"at least {low:g}"


_POSITIVE = (
    "steps",
    "log_every",
    "checkpoint_every",
    "checkpoints.latest",
    "validation.batches",
    "validation.max_new_tokens",
    "max_not_finite",
    "data.window",
    "data.threads",
)
_BATCH = ("shards", "micro_batches", "row_length", "conversations", "length")
_AXIS = (lambda value: value == -1 or value >= 1, "at least 1, or -1 for whatever is left")
_SHARE = (lambda value: 0 <= value < 1, "at least 0 and below 1")
_BOUNDS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    *((name, *_at_least(1)) for name in (*_POSITIVE, *(f"batch.{name}" for name in _BATCH))),
    *((f"rates.{name}", *_at_least(0)) for name in LEARNABLE),
    *((f"mesh.{name}", *_AXIS) for name in ("data", "fsdp", "tensor")),
    *((f"optimiser.{name}", *_SHARE) for name in ("warmup_ratio", "b1", "b2")),
    ("optimiser.weight_decay", *_at_least(0)),
    ("optimiser.final_ratio", lambda value: 0 <= value <= 1, "from 0 to 1"),
    ("optimiser.clip_norm", lambda value: value > 0, "above 0"),
    *((f"checkpoints.{name}", *_at_least(0)) for name in ("every", "best")),
    ("validation.every", *_at_least(0)),
    ("watchdog.say", lambda value: value > 0, "above 0"),
    ("watchdog.stop", *_at_least(0)),
    ("data.workers", lambda value: value in (0, 1), "0 or 1, a process that reads ahead for each shard"),
    ("batch.pool", *_at_least(0)),
)


def _field(config: ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def to_json(config: ConfigDict) -> dict:
    """Plain values, as they are written beside checkpoints."""
    return _plain(config.to_dict())


def _plain(value: Any) -> Any:
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def check_same_run(saved: dict, config: ConfigDict, workdir: Any) -> None:
    """Raises TempoError when a run in `workdir` was started with values that make other numbers."""
    old, new = leaves(saved), leaves(to_json(config))
    usual = leaves(to_json(default()))  # what a field had that is newer than the run
    old |= {name: usual[name] for name in new.keys() & usual.keys() - old.keys()}
    changed = [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not _free(name)
    ]
    if changed:
        raise TempoError(
            f"{workdir} holds a run with other settings ({'; '.join(changed)}): choose another --workdir, "
            "or the old settings to continue it"
        )


def _free(name: str) -> bool:
    """Data may lie elsewhere than they did, too."""
    moved = name.startswith("data.sources.") and name.endswith(".path")
    return moved or any(f"{name}.".startswith(f"{free}.") for free in FREE)


def leaves(values: Any, name: str = "") -> dict[str, Any]:
    """{"a": {"b": [{"c": 1}]}} -> {"a.b.0.c": 1}; lists of plain values are leaves."""
    if isinstance(values, list) and values and isinstance(values[0], dict):
        values = dict(enumerate(values))
    if not isinstance(values, dict):
        return {name: values}
    flat = {}
    for key, value in values.items():
        flat |= leaves(value, f"{name}.{key}" if name else f"{key}")
    return flat
