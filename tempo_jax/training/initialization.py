"""Initialization of a run's parameters: from native checkpoints, the rest at random.

Arrays are created with their sharding on the mesh; no host ever holds a whole model.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tempo_jax import checkpoint
from tempo_jax.data import demo_tokenizer
from tempo_jax.data.minireel import tokenizer as minireel_tokenizer
from tempo_jax.errors import TempoError
from tempo_jax.models import build
from tempo_jax.models.config import KINDS, SpecialIds, TempoConfig
from tempo_jax.models.presets import PRESETS
from tempo_jax.prompts import Tokenizer
from tempo_jax.sharding import param_sharding, tree_shardings
from tempo_jax.tasks import TASKS
from tempo_jax.utils import paths
from tempo_jax.utils.folders import FORCE, atomic_directory
from tempo_jax.utils.tree import flatten, nest
from tempo_jax.xcomp.token_compression import VARIANTS

Flat = dict[str, jax.Array]
# Names that config.init.tokenizer may have in place of a folder -> function that writes the tokenizer.
BUILTIN_TOKENIZERS: dict[str, Callable[[Path], None]] = {
    "demo": demo_tokenizer.write,  # for published vocabularies: Qwen's ids, mostly bytes
    "minireel": minireel_tokenizer.write,  # 768 tokens, for the presets with that vocabulary
}
# Component of Tempo -> (field of config.init, kind of checkpoint that fills it).
COMPONENTS = {"compressor": ("compressor", "qwen3-vl"), "llm": ("llm", "qwen3")}
BACKBONES = {"qwen3-vl": "compressor", "qwen3": "llm"}  # kind of model -> its field in TempoConfig
EMBEDDING, HEAD = "compressor/text/embed/embedding", "compressor/text/head/kernel"
MEMORY, DIRECTION = "compressor/memory/embedding", "compressor/relevance/direction"


@dataclasses.dataclass(frozen=True)
class Architecture:
    kind: str  # models.config.KINDS
    config: Any
    origin: dict  # where the parameters come from, for model.json


def architecture(config: ConfigDict) -> Architecture:
    """Determines the model to train; raises TempoError where checkpoints and config.model disagree."""
    kind, init = TASKS[config.task].kind, config.init
    if init.checkpoint and init.compressor:
        raise TempoError("config.init.checkpoint has a compressor: leave config.init.compressor empty")
    found = checkpoint.read_model_json(init.checkpoint, kind).config if init.checkpoint else None
    model = PRESETS[config.model] if config.model else found
    if isinstance(model, TempoConfig) and kind in BACKBONES:
        model = getattr(model, BACKBONES[kind])
    if config.lp_comp:
        model = dataclasses.replace(model, compression=VARIANTS[config.lp_comp])
    if not isinstance(model, KINDS[kind]):
        raise TempoError(
            f"config.model {config.model!r} is no {kind} model, which config.task={config.task} trains"
        )
    for part, (field, needed) in COMPONENTS.items():
        if init[field]:
            stored = checkpoint.read_model_json(init[field], needed).config
            _check_architecture(f"config.init.{field}", stored, getattr(model, part))
    origin = {name: value for name, value in init.items() if value}
    return Architecture(kind, model, {"trained from": origin or "random numbers"})


def _check_architecture(name: str, stored: Any, expected: Any) -> None:
    stored, expected = dataclasses.asdict(stored), dataclasses.asdict(expected)
    for values in (stored, expected):  # the compressor's own language head is not used
        values.get("text", {}).pop("tie_embeddings", None)
    stored, expected = flatten(stored), flatten(expected)
    wrong = [f"{key} is {stored.get(key)} there and {value} here"
             for key, value in expected.items() if value != stored.get(key)]  # fmt: skip
    if wrong:
        raise TempoError(f"{name} does not fit config.model ({'; '.join(wrong)}): choose another of the two")


def tokenizer_folder(config: ConfigDict, workdir: Path) -> Path:
    """Returns the folder of tokenizer files; a built-in one is written into the working directory first."""
    tokenizer = config.init.tokenizer
    if tokenizer in BUILTIN_TOKENIZERS:
        with atomic_directory(workdir / "tokenizer", FORCE, commit=config.commit) as folder:
            if jax.process_index() == 0:
                with paths.staged(folder) as place:
                    BUILTIN_TOKENIZERS[tokenizer](place)
        return paths.fetched(workdir / "tokenizer")
    if tokenizer:
        return paths.fetched(paths.path("config.init.tokenizer", tokenizer))
    for source in (config.init.checkpoint, config.init.compressor):
        if source:
            return checkpoint.tokenizer_path(source)
    raise TempoError(
        "there is no tokenizer: set config.init.tokenizer to a folder that has one, or to one of ours: "
        f"{', '.join(BUILTIN_TOKENIZERS)}"
    )


def parameters(config: ConfigDict, model: Any, tokenizer: Tokenizer, mesh: jax.sharding.Mesh) -> Flat:
    """Makes all parameters, {path: array} on the mesh, in their stored dtype (random ones: float32)."""
    shapes = flatten(build.shapes(model))
    loaded = dict(_load_given(config, mesh))
    base = {path: loaded.pop(path) for path in [HEAD] if path in loaded and path not in shapes}
    _check_shapes(shapes, loaded)
    params = _init_random(model, config.seed, mesh, shapes.keys() - loaded.keys()) | loaded
    if TASKS[config.task].kind == "tempo" and not config.init.checkpoint:
        params |= _init_tempo_parameters(params, base.get(HEAD), tokenizer.ids, config.seed, mesh)
    return params


def _load_given(config: ConfigDict, mesh) -> Iterator[tuple[str, jax.Array]]:
    """Loads parameters of checkpoints; later ones replace earlier ones of the same path."""
    if config.init.checkpoint:
        yield from flatten(checkpoint.load_params(config.init.checkpoint, shardings=mesh)).items()
    for part, (field, _) in COMPONENTS.items():
        if folder := config.init[field]:
            shapes = nest(checkpoint.param_shapes(folder))
            shardings = tree_shardings(
                shapes, mesh, f"{part}/"
            )  # those of the component, not of the backbone
            loaded = checkpoint.load_params(folder, shardings=shardings)
            yield from flatten(loaded, f"{part}/").items()


def _check_shapes(shapes: dict, params: dict) -> None:
    wrong = [path for path, x in params.items() if path not in shapes or shapes[path].shape != x.shape]
    if wrong:
        raise TempoError(
            f"the parameters of config.init do not fit config.model ({', '.join(sorted(wrong)[:5])}): leave "
            "config.model empty to take the checkpoint's architecture"
        )


def _init_random(model: Any, seed: int, mesh, wanted: set[str]) -> Flat:
    """Initializes the wanted parameters at random; the numbers do not depend on the mesh."""
    if not wanted:
        return {}

    def draw() -> Flat:
        flat = flatten(build.parameters(build.init(model, seed)))
        return {path: _scaled(path, flat[path]) for path in sorted(wanted)}

    shapes = jax.eval_shape(draw)
    return jax.jit(draw, out_shardings={p: param_sharding(p, x.shape, mesh) for p, x in shapes.items()})()


def _scaled(path: str, x: jax.Array) -> jax.Array:
    """Scales kernels that add to a residual stream down; the projector as PyTorch initializes it."""
    if re.search(r"(attention/(o|proj)|mlp/(down|fc2))/kernel$", path):
        return x / math.sqrt(2 * x.shape[0])
    if path.startswith("projector/") and path.endswith("kernel"):
        return x / math.sqrt(3)  # uniform within 1/sqrt(inputs)
    return x


def _init_tempo_parameters(params: Flat, head, ids: SpecialIds, seed: int, mesh) -> Flat:
    """Initializes what Tempo adds to its compressor (docs/reference/tempo.md#memory-tokens, #relevance).

    Memory tokens [K, D]: Normal(mean_d, std_d) of the embedding's columns. Direction [D]: the language
    head's rows of Yes and No, subtracted in their own dtype.
    """

    def make(embedding: jax.Array, head: jax.Array | None) -> Flat:
        table = embedding.astype(jnp.float32)
        noise = jax.random.normal(jax.random.key(seed), params[MEMORY].shape)
        rows = embedding if head is None else head.T
        difference = rows[ids.yes].astype(jnp.float32) - rows[ids.no].astype(jnp.float32)
        dtype = jnp.finfo(rows.dtype)  # rounded explicitly: XLA would keep the higher precision
        return {
            MEMORY: table.mean(0) + table.std(0, ddof=1) * noise,
            DIRECTION: jax.lax.reduce_precision(difference, dtype.nexp, dtype.nmant),
        }

    shardings = {path: param_sharding(path, params[path].shape, mesh) for path in (MEMORY, DIRECTION)}
    initialize: Callable = jax.jit(make, out_shardings=shardings)
    return initialize(params[EMBEDDING], head)
