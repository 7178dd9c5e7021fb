"""Native checkpoints: a folder with `model.json`, `params/` (Orbax v1), `digests.json` and `tokenizer/`.

model.json: {"format": 1, "kind": ..., "config": ..., "origin": ...}; it is written last and the whole
folder renamed into place, so that an interrupted save never leaves something that loads.
Parameters are nested dicts of arrays with string keys, stacked over layers.
"""

import contextlib
import dataclasses
import errno
import json
import logging as stdlib_logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from orbax.checkpoint import v1 as ocp

from tempo_jax import sharding
from tempo_jax.errors import TempoError
from tempo_jax.models import config as cfg
from tempo_jax.utils import digests, failures, signals
from tempo_jax.utils.folders import atomic_directory
from tempo_jax.utils.tree import flatten, nest

FORMAT = 1
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json", "vocab.json",
    "merges.txt", "special_tokens_map.json", "added_tokens.json", "generation_config.json",
    "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json",
    "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "README.md",
)  # fmt: skip
TEMPLATES = "additional_chat_templates"  # a folder of further ones, *.jinja
# Small enough that a host of a pod reads little beyond its own shards, large enough for object stores.
CHUNK_BYTES = 16 << 20
# Of Orbax's layouts, by name: v1 puts a tree into a folder of its own and marks the one around it.
_NAMED, _INDICATOR, _METADATA, _COMMITTED = (
    "state", "orbax.checkpoint", "_CHECKPOINT_METADATA", "commit_success.txt"
)  # fmt: skip
_HANDLER = "orbax.checkpoint._src.handlers.standard_checkpoint_handler.StandardCheckpointHandler"
FLOAT32_ALWAYS = "relevance/direction"  # facts/tempo.md §3.1


@dataclasses.dataclass(frozen=True)
class Model:
    """What model.json says; `origin` is whatever the writer noted about where the weights come from."""

    kind: str
    config: Any
    origin: dict


def read_model_json(directory: str | os.PathLike, kind: str | None = None) -> Model:
    """The architecture of a checkpoint; with `kind`, a checkpoint of another kind is a TempoError."""
    folder = Path(directory)
    path = folder / "model.json"
    if not folder.is_dir():
        raise TempoError(f"{folder} is not a folder: give a native checkpoint (python -m convert.from_hf)")
    if not path.is_file():
        foreign = (folder / "config.json").is_file()
        advice = "convert it with python -m convert.from_hf" if foreign else "it is not a native checkpoint"
        raise TempoError(f"{folder} holds no model.json: {advice}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = int(values["format"])
        if version < 1:
            raise ValueError(f"format {version}")
        if version > FORMAT:
            raise TempoError(
                f"{folder} has checkpoint format {version} and this tempo_jax reads up to {FORMAT}: "
                "update tempo_jax"
            )
        found = values["kind"]
        if found not in cfg.KINDS:
            raise TempoError(f"{folder} holds a model of the unknown kind {found!r}: update tempo_jax")
        config = cfg.from_dict(cfg.KINDS[found], values["config"])
    except TempoError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TempoError(f"{path} is damaged ({error}): convert the model again") from error
    if kind is not None and found != kind:
        raise TempoError(f"{folder} holds a model of kind {found!r} where {kind!r} is needed")
    return Model(found, config, values.get("origin") or {})


def tokenizer_path(directory: str | os.PathLike) -> Path:
    """The folder of Hugging Face tokenizer files; a TempoError when there is none."""
    path = Path(directory) / "tokenizer"
    if not (path / "tokenizer.json").is_file() and not (path / "vocab.json").is_file():
        raise TempoError(
            f"{directory} holds no tokenizer: put the model's tokenizer.json and tokenizer_config.json "
            f"into {path}"
        )
    return path


def param_shapes(directory: str | os.PathLike) -> dict[str, Any]:
    """Path -> the stored array's `.shape` and `.dtype`; nothing else is read."""
    with damage_is_a_sentence(directory):
        found = ocp.metadata(params_folder(directory)).metadata
        if found is None:
            raise ValueError("their metadata cannot be read")
        return flatten(found)


def load_params(
    directory: str | os.PathLike,
    *,
    dtype: Any = None,
    shardings: jax.sharding.Mesh | dict | None = None,
    verify: bool = False,
) -> dict:
    """The parameters as a nested dict of jax arrays, each process reading its own shards only.

    `dtype`: cast while reading (the relevance direction stays float32). `shardings`: a mesh (then
    `tempo_jax.sharding` places them), a nested dict of shardings, or None for the first device. `verify`:
    look at every byte of the files first, not only at a gibibyte of them (`digests`).
    Raises TempoError when the folder does not hold sound parameters.
    """
    params = params_folder(directory)
    if not digests.check(directory, whole=verify) and verify:
        raise TempoError(
            f"{directory} holds no {digests.FILE} to verify it by: it was written before there were any"
        )
    single = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    given = flatten(shardings) if isinstance(shardings, dict) else {}
    abstract = {}
    for path, leaf in param_shapes(directory).items():
        if isinstance(shardings, jax.sharding.Mesh):
            where = sharding.param_sharding(path, leaf.shape, shardings)
        else:
            where = given.get(path, single)
        wanted = leaf.dtype if dtype is None or path.endswith(FLOAT32_ALWAYS) else np.dtype(dtype)
        wanted = jax.dtypes.canonicalize_dtype(wanted)  # float64 files are computed with in float32
        abstract[path] = jax.ShapeDtypeStruct(leaf.shape, wanted, sharding=where)
    with damage_is_a_sentence(directory):
        return ocp.load(params, nest(abstract))


def save(
    directory: str | os.PathLike,
    kind: str,
    config: Any,
    params: dict,
    tokenizer_dir: str | os.PathLike | None = None,
    origin: dict | None = None,
    *,
    overwrite: bool | str = False,
) -> None:
    """Writes a checkpoint atomically; every process calls it, with arrays it holds shards of.

    overwrite: as for `folders.atomic_directory`. TempoError where it cannot be written.
    """
    with atomic_directory(directory, overwrite) as folder:
        with saving_context(), quiet(), signals.held():
            ocp.save(folder / "params", nest(flatten(params)))
        if jax.process_index() == 0:
            describe(folder, kind, config, tokenizer_dir, origin)


def params_folder(directory: str | os.PathLike) -> Path:
    """The absolute path of a checkpoint's arrays; TempoError when there is none."""
    path = (Path(directory) / "params").resolve()
    if not path.is_dir():
        raise TempoError(f"{directory} holds no params folder: convert or copy the model again")
    return path


def saving_context(*, compress: bool = True) -> ocp.Context:
    """How Orbax writes our arrays; `compress`: about a fifth smaller, in several times the time."""
    context = ocp.Context()
    context.array.saving.use_compression = compress
    context.memory.deepcopy_host_arrays = False  # nothing changes the arrays while they are written
    context.array.saving.storage_options.chunk_byte_size = CHUNK_BYTES
    context.array.saving.enable_write_sharding_file = False  # loading always says where to
    # Replicas share the writing of large arrays only: each slice of a small one costs a compilation.
    context.array.saving.min_slice_bytes_for_replica_parallel = CHUNK_BYTES
    return context


def describe(
    folder: Path,
    kind: str,
    config: Any,
    tokenizer_dir,
    origin: dict | None,
    written: digests.DigestWriter | None = None,
) -> None:
    """Writes what is not arrays: digests, the tokenizer, then model.json, without which nothing loads."""
    if (folder / "params").is_dir():
        lay_out(folder / "params")
        (written or digests.DigestWriter()).finish(folder)
    if tokenizer_dir is not None:
        copy_tokenizer(Path(tokenizer_dir), folder / "tokenizer")
    values = {"format": FORMAT, "kind": kind, "config": cfg.to_dict(config), "origin": origin or {}}
    (folder / "model.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def lay_out(params: Path) -> None:
    """Makes what Orbax v1 has saved into what all of Orbax opens: the folder of a tree without a name.

    v0's checkpointers (`StandardCheckpointer().restore(params)`) know no other; v1 sees which it is.
    """
    named = params / _NAMED
    metadata = json.loads((params / _METADATA).read_text(encoding="utf-8"))
    (params / _INDICATOR).unlink(missing_ok=True)
    for path in sorted(named.iterdir()):
        path.rename(params / path.name)
    named.rmdir()
    metadata["item_handlers"] = _HANDLER
    (params / _METADATA).write_text(json.dumps(metadata), encoding="utf-8")
    # What a folder in an object store is whole by. Orbax's own text names a folder of this machine.
    (params / _COMMITTED).write_text("Checkpoint commit was successful\n", encoding="utf-8")


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies whichever files of tokenizer, processor and license exist; weights and code stay behind."""
    further = sorted(f"{TEMPLATES}/{path.name}" for path in (source / TEMPLATES).glob("*.jinja"))
    for name in (*TOKENIZER_FILES, *further):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)


@contextlib.contextmanager
def damage_is_a_sentence(directory: str | os.PathLike) -> Iterator[None]:
    """Whatever goes wrong while reading arrays becomes one TempoError."""
    hooks = (sys.excepthook, sys.unraisablehook)
    _ignore_late_reads()
    try:
        with quiet(), signals.held():
            yield
        sys.excepthook, sys.unraisablehook = hooks
    except TempoError:
        raise
    except Exception as error:  # Orbax raises bare Exceptions for damaged arrays
        if (refused := failures.refusal(error)) and refused.code not in (errno.ENOENT, errno.ENOTDIR):
            raise TempoError(f"the parameters in {directory} cannot be read: {refused}") from error
        reason = next(iter(str(error).splitlines()), type(error).__name__).split(". See full")[0][:200]
        raise TempoError(f"the parameters in {directory} are damaged or incomplete ({reason})") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Orbax's threads tell of a failure in their own words, each with a traceback, before it is raised."""
    loggers = (logging.get_absl_logger(), stdlib_logging.getLogger("asyncio"))
    levels = [logger.level for logger in loggers]
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    loggers[1].setLevel(stdlib_logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _ignore_late_reads() -> None:
    """Reads still under way when one fails come back to Orbax's closed event loop, each with a traceback.

    Some at once, before the error is seen here, some while Python ends.
    """
    excepthook, unraisablehook = sys.excepthook, sys.unraisablehook

    def late(error: BaseException | None) -> bool:
        return isinstance(error, RuntimeError) and "Event loop is closed" in str(error)

    def exception(kind, error, trace) -> None:
        if not late(error):
            excepthook(kind, error, trace)

    def unraisable(args) -> None:
        if not late(args.exc_value):
            unraisablehook(args)

    sys.excepthook, sys.unraisablehook = exception, unraisable
