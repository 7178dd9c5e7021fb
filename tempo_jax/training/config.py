"""The config of a training run: one ConfigDict, checked before anything slow happens.

Every file in configs/ starts from `default()` and changes a few fields.
"""

from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from tempo_jax.errors import TempoError
from tempo_jax.models.layers import parse_remat_policies
from tempo_jax.models.presets import PRESETS
from tempo_jax.tasks import TASKS
from tempo_jax.training.loggers import LOGGERS
from tempo_jax.training.optimizer import KINDS
from tempo_jax.training.param_groups import TRAINABLE_GROUPS
from tempo_jax.utils import config_fields
from tempo_jax.utils.commit import COMMITS
from tempo_jax.utils.paths import check_scheme
from tempo_jax.xcomp.token_compression import VARIANTS

RENAMED = config_fields.RENAMED["train"]
ANSWERING = ("tempo", "xcomp")  # tasks whose models are whole systems
DTYPES = ("bfloat16", "float32")
# Fields that may differ when a run is resumed: those that change none of its numbers on the same devices.
RESUME_MUTABLE_FIELDS = (
    "mesh", "steps", "remat", "data.workers", "data.threads", "log_every", "checkpoint_every", "checkpoints",
    "keep", "fallback", "commit", "watchdog", "validation", "loggers", "max_nonfinite_steps", "profile_step",
    "init",
)  # fmt: skip


def default() -> ConfigDict:
    """Returns all fields with their types and default values.

    Unknown fields are rejected by `check`; `config_fields.RENAMED` has the old names that still work.
    """
    config = ConfigDict()
    config.seed = 0
    config.task = "tempo"  # tasks.TASKS
    config.model = ""  # a name in models.presets.PRESETS; empty: the architecture of init.checkpoint

    config.lp_comp = ""  # task xcomp: a name in token_compression.VARIANTS; empty: as the model has it

    config.init = ConfigDict()
    config.init.checkpoint = ""  # native checkpoint of the task's own kind
    config.init.compressor = ""  # tasks tempo and align: native qwen3-vl checkpoint that fills compressor/*
    config.init.llm = ""  # the same: native qwen3 checkpoint for llm/*; it replaces that of init.checkpoint
    # Folder of tokenizer files, or a name in initialization.BUILTIN_TOKENIZERS; empty: that of
    # init.checkpoint or init.compressor.
    config.init.tokenizer = ""

    config.learning_rate = ConfigDict(dict.fromkeys(TRAINABLE_GROUPS, 0.0))  # peak learning rates; 0 freezes
    config.optimizer = ConfigDict()
    config.optimizer.kind = "adamw"  # training.optimizer.KINDS
    config.optimizer.warmup_ratio = 0.03
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 1.0
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.final_lr_fraction = 0.0  # learning rate at the last step, as a fraction of the peak
    config.steps = 1000

    config.batch = ConfigDict()
    config.batch.shards = 1  # data shards of the global batch; independent of the number of processes
    config.batch.micro_batches = 1  # micro-batches whose gradients are accumulated in a step
    # Sizes of one micro-batch of one shard (batch_packing.BatchShape):
    config.batch.segments = 16  # segment buffer; task xcomp: clips
    config.batch.compressor_length = 768  # tokens of a compressor prompt; task xcomp: text tokens
    config.batch.sequences = 1  # LLM sequences, into which conversations are packed
    config.batch.sequence_length = 4096  # tokens of an LLM sequence
    config.batch.buckets = ()  # of task xcomp: clips of a conversation at most, up to pool (data.buckets)
    config.batch.frame_sizes = ()  # (height, width) of frames, step after step; empty: the data's only one

    config.data = ConfigDict()
    config.data.sources = ()  # ConfigDicts {kind="prepared", path, weight} or {kind="minireel", split, …}
    config.data.packing_window = 64  # samples among which a batch is packed
    config.data.workers = 0  # worker processes that prefetch, per shard
    # Reading threads, per shard: 16 hide the 40 ms latency of an object store (benchmarks/storage_read.py).
    config.data.threads = 16

    config.validation = ConfigDict()
    config.validation.every = 0  # steps; 0 for never
    config.validation.sources = ()  # as data.sources, of held-out data
    config.validation.batches = 8  # batches of a validation, each of a step's size
    # ConfigDicts {video, question, max_frames (optional)}, for tasks tempo and xcomp: answered with the
    # current weights and logged.
    config.validation.questions = ()
    config.validation.max_new_tokens = 32
    config.loggers = ("tensorboard",)  # names in training.loggers.LOGGERS

    config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})  # -1: all remaining devices
    config.dtype = "bfloat16"  # dtype of the computation; master weights are float32
    # Rematerialization policy (models.layers.REMAT_POLICIES) of all layer stacks, or one each in the order in
    # which they run: "full,full,attention" for vision tower, compressor and LLM.
    config.remat = "full"

    config.log_every = 10  # steps, as the next ones
    config.checkpoint_every = 500
    # Checkpoints to keep: the `latest`, those whose step is a multiple of `every`, and the `best` by
    # validation loss (of steps that are both saved and validated); 0 for none.
    config.checkpoints = ConfigDict({"latest": 2, "every": 0, "best": 0})
    # How checkpoints and models are committed: "auto" (a rename on a disk, a marker in gs:// and on mounts of
    # gcsfuse and the like) or "marker" everywhere, for file systems that do not rename folders atomically.
    config.commit = "auto"
    config.fallback = True  # a damaged last checkpoint is set aside, and the previous one is restored
    # Seconds without progress until stragglers are reported (`say`), and until the run ends (`stop`).
    config.watchdog = ConfigDict({"say": 120.0, "stop": 1800.0})
    config.max_nonfinite_steps = 10  # consecutive non-finite steps before training stops
    config.profile_step = -1  # step that is traced into workdir/profile
    return config_fields.with_old_names(config, RENAMED)


def check(config: ConfigDict) -> None:
    """Raises one TempoError that names every invalid value and unknown field."""
    config_fields.check_known(config, default())
    problems = list(_problems(config))
    if problems:
        raise TempoError("; ".join(problems))


def _problems(config: ConfigDict) -> Iterator[str]:
    for name, allowed in (("task", TASKS), ("dtype", DTYPES), ("optimizer.kind", KINDS)):
        value = _field(config, name)
        if value not in allowed:
            yield f"config.{name} is {value!r}: use one of {', '.join(allowed)}"
    try:
        parse_remat_policies(config.remat, TASKS[config.task].num_remat_stacks if config.task in TASKS else 1)
    except TempoError as error:
        yield str(error)
    if config.model and config.model not in PRESETS:
        yield f"config.model is {config.model!r}: use one of {', '.join(sorted(PRESETS))}"
    if config.lp_comp:
        if config.task != "xcomp":
            yield f"config.lp_comp is for config.task=xcomp, not {config.task}: leave it empty"
        elif config.lp_comp not in VARIANTS:
            yield f"config.lp_comp is {config.lp_comp!r}: use one of {', '.join(VARIANTS)}"
    if not config.model and not config.init.checkpoint:
        yield "config.model and config.init.checkpoint are both empty: give one of them"
    whole = config.task not in TASKS or TASKS[config.task].kind == "tempo"
    if not whole and (config.init.compressor or config.init.llm):
        yield "config.init.compressor and config.init.llm are for whole models: use config.init.checkpoint"
    for name, path in config.init.items():
        if wrong := check_scheme(f"config.init.{name}", path):
            yield wrong
    if not any(config.learning_rate.values()):
        yield "config.learning_rate are all 0: give at least one group a learning rate"
    if config.task != "xcomp" and config.batch.segments == 0:
        yield "config.batch.segments is 0, which is for images in config.task=xcomp only: give at least 1"
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
    "max_nonfinite_steps",
    "data.packing_window",
    "data.threads",
)
_BATCH = ("shards", "micro_batches", "compressor_length", "sequences", "sequence_length")
_AXIS = (lambda value: value == -1 or value >= 1, "at least 1, or -1 for whatever is left")
_SHARE = (lambda value: 0 <= value < 1, "at least 0 and below 1")
_BOUNDS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    *((name, *_at_least(1)) for name in (*_POSITIVE, *(f"batch.{name}" for name in _BATCH))),
    *((f"learning_rate.{name}", *_at_least(0)) for name in TRAINABLE_GROUPS),
    *((f"mesh.{name}", *_AXIS) for name in ("data", "fsdp", "tensor")),
    *((f"optimizer.{name}", *_SHARE) for name in ("warmup_ratio", "b1", "b2")),
    ("optimizer.weight_decay", *_at_least(0)),
    ("optimizer.final_lr_fraction", lambda value: 0 <= value <= 1, "from 0 to 1"),
    ("optimizer.clip_norm", lambda value: value > 0, "above 0"),
    *((f"checkpoints.{name}", *_at_least(0)) for name in ("every", "best")),
    ("validation.every", *_at_least(0)),
    ("watchdog.say", lambda value: value > 0, "above 0"),
    ("watchdog.stop", *_at_least(0)),
    ("data.workers", lambda value: value in (0, 1), "0 or 1, a process that reads ahead for each shard"),
    ("batch.segments", *_at_least(0)),
)


def _field(config: ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def to_json(config: ConfigDict) -> dict:
    """Returns the config as plain values, as they are stored with checkpoints."""
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
    """Raises TempoError when the run in `workdir` was started with values that give other numbers."""
    old, new = (leaves(config_fields.migrate(values, RENAMED)) for values in (saved, to_json(config)))
    defaults = leaves(to_json(default()))  # of fields that are newer than the run
    old |= {name: defaults[name] for name in new.keys() & defaults.keys() - old.keys()}
    changed = [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not _is_mutable(name)
    ]
    if changed:
        raise TempoError(
            f"{workdir} holds a run with other settings ({'; '.join(changed)}): choose another --workdir, "
            "or the old settings to continue it"
        )


def _is_mutable(name: str) -> bool:
    """Returns whether a field may change when a run is resumed; paths of data may, too."""
    moved = name.startswith("data.sources.") and name.endswith(".path")
    return moved or any(f"{name}.".startswith(f"{free}.") for free in RESUME_MUTABLE_FIELDS)


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
