"""Native checkpoints: a folder with `model.json`, `params/` (Orbax v1), `digests.json` and `tokenizer/`.

model.json is {"format": 1, "kind": ..., "config": ..., "origin": ...}. It is written last and the whole
folder is renamed into place, so that an interrupted save never leaves a folder that loads. Parameters are
nested dicts of arrays with string keys, stacked over layers (docs/reference/checkpoints.md).
"""

import contextlib
import dataclasses
import errno
import functools
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
from tempo_jax.models import stacks
from tempo_jax.utils import digests, failures, gcs, paths, signals, stored_arrays
from tempo_jax.utils.commit import AUTO, by_marker
from tempo_jax.utils.folders import atomic_directory
from tempo_jax.utils.paths import AnyPath
from tempo_jax.utils.stored_arrays import StoredArrays
from tempo_jax.utils.tree import flatten, nest

FORMAT = 1
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json", "vocab.json",
    "merges.txt", "special_tokens_map.json", "added_tokens.json", "generation_config.json",
    "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json",
    "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "README.md",
)  # fmt: skip
TEMPLATES = "additional_chat_templates"  # a folder of further chat templates, *.jinja
# Small enough that a host of a pod reads little more than its own shards, large enough for object stores.
CHUNK_BYTES = 16 << 20
# Orbax's layout, by name: v1 saves a tree in a folder of its own and marks the folder around it.
_NAMED, _INDICATOR, _METADATA, _COMMITTED = (
    "state", "orbax.checkpoint", "_CHECKPOINT_METADATA", "commit_success.txt"
)  # fmt: skip
_HANDLER = "orbax.checkpoint._src.handlers.standard_checkpoint_handler.StandardCheckpointHandler"
FLOAT32_ALWAYS = "relevance/direction"  # docs/reference/tempo.md#relevance


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """The contents of model.json.

    Attributes:
      kind: "tempo", "qwen3", "qwen3-vl" or "xcomp".
      config: The architecture, a dataclass of `tempo_jax.models.config`.
      origin: Where the weights come from, as the writer recorded it.
    """

    kind: str
    config: Any
    origin: dict


def read_model_json(directory: str | os.PathLike, kind: str | None = None) -> CheckpointInfo:
    """Reads the architecture of a checkpoint.

    Args:
      directory: Folder of the checkpoint.
      kind: Required kind of model; None for any.

    Raises:
      TempoError: The folder is no checkpoint, or one of another kind or of a newer format.
    """
    folder = paths.path("the checkpoint", directory)
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
        stored_kind = values["kind"]
        if stored_kind not in cfg.KINDS:
            raise TempoError(f"{folder} holds a model of the unknown kind {stored_kind!r}: update tempo_jax")
        config = cfg.from_dict(cfg.KINDS[stored_kind], values["config"])
    except TempoError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TempoError(f"{path} is damaged ({error}): convert the model again") from error
    if kind is not None and stored_kind != kind:
        raise TempoError(f"{folder} holds a model of kind {stored_kind!r} where {kind!r} is needed")
    return CheckpointInfo(stored_kind, config, values.get("origin") or {})


def tokenizer_path(directory: str | os.PathLike) -> Path:
    """Returns the folder of a checkpoint's Hugging Face tokenizer files.

    Raises:
      TempoError: There is none.
    """
    path = paths.path("the checkpoint", directory) / "tokenizer"
    if not (path / "tokenizer.json").is_file() and not (path / "vocab.json").is_file():
        raise TempoError(
            f"{directory} holds no tokenizer: put the model's tokenizer.json and tokenizer_config.json "
            f"into {path}"
        )
    return paths.fetched(path)


def param_shapes(directory: str | os.PathLike) -> dict[str, Any]:
    """Returns the shape and dtype of every stored array by its path; reads no arrays.

    Raises:
      TempoError: There are no parameters, or their metadata is damaged.
    """
    folder = params_folder(directory)
    with loading_context(), report_corruption(directory):
        metadata = ocp.metadata(folder).metadata
        if metadata is None:
            raise ValueError("their metadata cannot be read")
        return flatten(metadata)


def load_params(
    directory: str | os.PathLike,
    *,
    dtype: Any = None,
    shardings: jax.sharding.Mesh | dict | None = None,
    verify: bool = False,
    per_layer: bool = False,
) -> dict:
    """Loads the parameters; each process reads its own shards only.

    On a CPU, float32 and bfloat16 arrays stay in the memory that they are read into.

    Args:
      directory: Folder of the checkpoint.
      dtype: Casts while reading (the relevance direction stays float32); None for the stored dtype.
      shardings: A mesh, on which `tempo_jax.sharding` shards them; a nested dict of shardings; or None for
        the first device.
      verify: Compares all bytes of the files with their digests first; otherwise a gibibyte of them.
      per_layer: Returns one node per layer, as `stacks.unstack_layers` does, for inference.

    Returns:
      A nested dict of jax arrays.

    Raises:
      TempoError: The folder has no sound parameters.
    """
    params = params_folder(directory)
    if not digests.check(directory, whole=verify) and verify:
        raise TempoError(
            f"{directory} holds no {digests.FILE} to verify it by: it was written before there were any"
        )
    with loading_context(), report_corruption(directory):
        stored = StoredArrays(params) if stored_arrays.is_readable(params) else None
    shapes = stored.shapes if stored is not None else param_shapes(directory)
    abstract = _abstract(shapes, dtype, shardings)
    with loading_context(), report_corruption(directory):
        if stored is not None:
            return nest(_read(stored, abstract, per_layer))
        loaded = ocp.load(params, nest(abstract))  # gs://, and checkpoints of another layout
    return stacks.unstack_layers(loaded) if per_layer else loaded


def _read(stored: StoredArrays, abstract: dict, per_layer: bool) -> dict[str, jax.Array]:
    """Reads an array while the one before is on its way to the devices."""
    flat: dict[str, jax.Array] = {}
    last: dict[str, jax.Array] = {}
    for path, leaf in abstract.items():
        placed = stacks.place(path, leaf, functools.partial(stored.read, path), per_layer=per_layer)
        jax.block_until_ready(last)  # so that the host holds two of them at most
        flat.update(placed)
        last = placed
    return flat


def _abstract(shapes: dict, dtype: Any, shardings: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape, dtype and sharding to load each array with."""
    single = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    by_path = flatten(shardings) if isinstance(shardings, dict) else {}
    abstract = {}
    for path, leaf in shapes.items():
        if isinstance(shardings, jax.sharding.Mesh):
            leaf_sharding = sharding.param_sharding(path, leaf.shape, shardings)
        else:
            leaf_sharding = by_path.get(path, single)
        leaf_dtype = leaf.dtype if dtype is None or path.endswith(FLOAT32_ALWAYS) else np.dtype(dtype)
        leaf_dtype = jax.dtypes.canonicalize_dtype(leaf_dtype)  # float64 becomes float32
        abstract[path] = jax.ShapeDtypeStruct(leaf.shape, leaf_dtype, sharding=leaf_sharding)
    return abstract


def save(
    directory: str | os.PathLike,
    kind: str,
    config: Any,
    params: dict,
    tokenizer_dir: str | os.PathLike | None = None,
    origin: dict | None = None,
    *,
    overwrite: bool | str = False,
    commit: str = AUTO,
) -> None:
    """Writes a checkpoint atomically. Every process calls it, with arrays that it has shards of.

    Args:
      directory: Folder to write.
      kind: Kind of the model, a key of `models.config.KINDS`.
      config: The architecture.
      params: Nested dict of arrays, stacked over layers.
      tokenizer_dir: Folder of Hugging Face tokenizer files to copy; None to write none.
      origin: Where the weights come from, as JSON values.
      overwrite, commit: As in `folders.atomic_directory`.

    Raises:
      TempoError: The folder exists, or cannot be written.
    """
    with atomic_directory(directory, overwrite, commit=commit) as folder:
        context = saving_context(compress=False, marker=by_marker(folder, commit))
        with context, quiet(), signals.held():
            ocp.save(folder / "params", nest(flatten(params)))
        if jax.process_index() == 0:
            write_metadata(folder, kind, config, tokenizer_dir, origin)


def params_folder(directory: str | os.PathLike) -> AnyPath:
    """Returns the absolute path of a checkpoint's arrays.

    Raises:
      TempoError: There are none.
    """
    path = paths.absolute(paths.path("the checkpoint", directory) / "params")
    if not path.is_dir():
        raise TempoError(f"{directory} holds no params folder: convert or copy the model again")
    return path


def loading_context() -> ocp.Context:
    """model.json marks a whole checkpoint: one that was copied to gs:// need not have Orbax's own mark."""
    context = ocp.Context()
    context.atomicity.allow_legacy_atomic_rename = True
    return context


def saving_context(*, compress: bool = True, marker: bool = False) -> ocp.Context:
    """The Orbax context that arrays are written with.

    compress: a fifth smaller, but several times slower.
    marker: write in place and commit_success.txt last, instead of a rename; always so in gs://.
    """
    context = ocp.Context()
    if marker:
        context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
    context.array.saving.use_compression = compress
    context.memory.deepcopy_host_arrays = False  # arrays do not change while they are written
    context.array.saving.storage_options.chunk_byte_size = CHUNK_BYTES
    context.array.saving.enable_write_sharding_file = False  # loading always passes shardings
    # Only large arrays are written in parallel by replicas: each slice of a small one costs a compilation.
    context.array.saving.min_slice_bytes_for_replica_parallel = CHUNK_BYTES
    return context


def write_metadata(
    folder: AnyPath,
    kind: str,
    config: Any,
    tokenizer_dir,
    origin: dict | None,
    written: digests.DigestWriter | None = None,
) -> None:
    """Writes all but the arrays: digests, the tokenizer, and last model.json, without which nothing loads."""
    if (folder / "params").is_dir():
        convert_layout(folder / "params")
        (written or digests.DigestWriter()).finish(folder)
    if tokenizer_dir is not None:
        with paths.staged(folder / "tokenizer") as place:
            copy_tokenizer(Path(tokenizer_dir), place)
    values = {"format": FORMAT, "kind": kind, "config": cfg.to_dict(config), "origin": origin or {}}
    paths.write_text(folder / "model.json", json.dumps(values, indent=1) + "\n")


def convert_layout(params: AnyPath) -> None:
    """Moves what Orbax v1 saved to the layout that all versions of Orbax read: the folder of an unnamed tree.

    The checkpointers of v0 (`StandardCheckpointer().restore(params)`) read no other; v1 detects the layout.
    In gs:// the files are copied inside the storage; the mark of a complete folder is away meanwhile.
    """
    metadata = json.loads((params / _METADATA).read_text(encoding="utf-8"))
    for mark in (_COMMITTED, _INDICATOR):
        paths.remove(params / mark)
    paths.move_up(params / _NAMED)
    metadata["item_handlers"] = _HANDLER
    paths.write_text(params / _METADATA, json.dumps(metadata))
    # In an object store, this file marks a complete folder. Orbax's own text names a folder of this machine.
    paths.write_text(params / _COMMITTED, "Checkpoint commit was successful\n")


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies the files of tokenizer, processor and license that exist, but no weights and no code."""
    templates = sorted(f"{TEMPLATES}/{path.name}" for path in (source / TEMPLATES).glob("*.jinja"))
    for name in (*TOKENIZER_FILES, *templates):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)


@contextlib.contextmanager
def report_corruption(directory: str | os.PathLike) -> Iterator[None]:
    """Converts any error while reading arrays to a TempoError."""
    hooks = (sys.excepthook, sys.unraisablehook)
    _ignore_late_reads()
    try:
        with quiet(), signals.held():
            yield
        sys.excepthook, sys.unraisablehook = hooks
    except TempoError:
        raise
    except Exception as error:  # Orbax raises bare Exceptions for damaged arrays
        if message := gcs.user_error(error, f"the parameters in {directory} cannot be read"):
            raise message from error
        os_error = failures.refusal(error)
        if os_error and os_error.code not in (errno.ENOENT, errno.ENOTDIR):
            raise TempoError(f"the parameters in {directory} cannot be read: {os_error}") from error
        reason = next(iter(str(error).splitlines()), type(error).__name__).split(". See full")[0][:200]
        raise TempoError(f"the parameters in {directory} are damaged or incomplete ({reason})") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences Orbax, whose threads log a traceback each before a failure is raised."""
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
    """Silences the reads that are still running when one fails: each finds Orbax's event loop closed.

    Some fail at once, before the error is raised here, and some while Python exits.
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
