"""Where a run's parameters come from: native checkpoints for what there is, random numbers for the rest.

Everything is born in its place on the mesh; no host ever holds a whole model.
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
from tempo_jax.utils.folders import FORCE, replacing
from tempo_jax.utils.tree import flatten, nest
from tempo_jax.xcomp.token_compression import VARIANTS

Flat = dict[str, jax.Array]
# Names that config.init.tokenizer may have in place of a folder -> what writes it.
OWN_TOKENIZERS: dict[str, Callable[[Path], None]] = {
    "demo": demo_tokenizer.write,  # ours for published vocabularies: Qwen's ids, mostly bytes
    "minireel": minireel_tokenizer.write,  # 768 tokens, for the presets with that vocabulary
}
# Component of Tempo -> (field of config.init, kind of checkpoint that fills it).
PARTS = {"compressor": ("compressor", "qwen3-vl"), "llm": ("llm", "qwen3")}
BACKBONES = {"qwen3-vl": "compressor", "qwen3": "llm"}  # kind of model -> its field in TempoConfig
EMBEDDING, HEAD = "compressor/text/embed/embedding", "compressor/text/head/kernel"
MEMORY, DIRECTION = "compressor/memory/embedding", "compressor/relevance/direction"


@dataclasses.dataclass(frozen=True)
class Architecture:
    kind: str  # models.config.KINDS
    config: Any
    origin: dict  # where the parameters come from, for model.json


def architecture(config: ConfigDict) -> Architecture:
    """The model that is to be trained; TempoError where checkpoints and config.model do not agree."""
    kind, init = TASKS[config.task].kind, config.init
    if init.checkpoint and init.compressor:
        raise TempoError("config.init.checkpoint has a compressor: leave config.init.compressor empty")
    found = checkpoint.read_model_json(init.checkpoint, kind).config if init.checkpoint else None
    model = PRESETS[config.model] if config.model else found
    if isinstance(model, TempoConfig) and kind in BACKBONES:
        model = getattr(model, BACKBONES[kind])
    if config.compression:
        model = dataclasses.replace(model, compression=VARIANTS[config.compression])
    if not isinstance(model, KINDS[kind]):
        raise TempoError(
            f"config.model {config.model!r} is no {kind} model, which config.task={config.task} trains"
        )
    for part, (field, needed) in PARTS.items():
        if init[field]:
            theirs = checkpoint.read_model_json(init[field], needed).config
            _check_same(f"config.init.{field}", theirs, getattr(model, part))
    origin = {name: value for name, value in init.items() if value}
    return Architecture(kind, model, {"trained from": origin or "random numbers"})


def _check_same(name: str, theirs: Any, ours: Any) -> None:
    ours, theirs = dataclasses.asdict(ours), dataclasses.asdict(theirs)
    for values in (ours, theirs):  # the compressor's own language head is not used
        values.get("text", {}).pop("tie_embeddings", None)
    flat = flatten(ours), flatten(theirs)
    wrong = [f"{key} is {flat[1].get(key)} there and {flat[0].get(key)} here"
             for key in flat[0] if flat[0][key] != flat[1].get(key)]  # fmt: skip
    if wrong:
        raise TempoError(f"{name} does not fit config.model ({'; '.join(wrong)}): choose another of the two")


def tokenizer_folder(config: ConfigDict, workdir: Path) -> Path:
    """The folder of tokenizer files; one of our own is written into the working directory first."""
    given = config.init.tokenizer
    if given in OWN_TOKENIZERS:
        with replacing(workdir / "tokenizer", FORCE) as folder:
            if jax.process_index() == 0:
                with paths.staged(folder) as place:
                    OWN_TOKENIZERS[given](place)
        return paths.fetched(workdir / "tokenizer")
    if given:
        return paths.fetched(paths.path("config.init.tokenizer", given))
    for source in (config.init.checkpoint, config.init.compressor):
        if source:
            return checkpoint.tokenizer_path(source)
    raise TempoError(
        "there is no tokenizer: set config.init.tokenizer to a folder that has one, or to one of ours: "
        f"{', '.join(OWN_TOKENIZERS)}"
    )


def parameters(config: ConfigDict, model: Any, tokenizer: Tokenizer, mesh: jax.sharding.Mesh) -> Flat:
    """All parameters as {path: array} on the mesh, in the dtype they are stored in (float32: random)."""
    shapes = flatten(build.shapes(model))
    given = dict(_given(config, mesh))
    base = {path: given.pop(path) for path in [HEAD] if path in given and path not in shapes}
    _check_shapes(shapes, given)
    drawn = _random(model, config.seed, mesh, shapes.keys() - given.keys())
    params = drawn | given
    if TASKS[config.task].kind == "tempo" and not config.init.checkpoint:
        params |= _new_of_tempo(params, base.get(HEAD), tokenizer.ids, config.seed, mesh)
    return params


def _given(config: ConfigDict, mesh) -> Iterator[tuple[str, jax.Array]]:
    """Later ones replace earlier ones: config.init.llm the LLM of config.init.checkpoint."""
    if config.init.checkpoint:
        yield from flatten(checkpoint.load_params(config.init.checkpoint, shardings=mesh)).items()
    for part, (field, _) in PARTS.items():
        if folder := config.init[field]:
            whole = nest(checkpoint.param_shapes(folder))
            where = tree_shardings(whole, mesh, f"{part}/")  # as a part, not as the model that it was
            loaded = checkpoint.load_params(folder, shardings=where)
            yield from flatten(loaded, f"{part}/").items()


def _check_shapes(shapes: dict, given: dict) -> None:
    wrong = [path for path, x in given.items() if path not in shapes or shapes[path].shape != x.shape]
    if wrong:
        raise TempoError(
            f"the parameters of config.init do not fit config.model ({', '.join(sorted(wrong)[:5])}): leave "
            "config.model empty to take the checkpoint's architecture"
        )


def _random(model: Any, seed: int, mesh, wanted: set[str]) -> Flat:
    """The wanted parameters of a fresh model; the numbers do not depend on the mesh."""
    if not wanted:
        return {}

    def draw() -> Flat:
        flat = flatten(build.parameters(build.init(model, seed)))
        return {path: _scaled(path, flat[path]) for path in sorted(wanted)}

    shapes = jax.eval_shape(draw)
    return jax.jit(draw, out_shardings={p: param_sharding(p, x.shape, mesh) for p, x in shapes.items()})()


def _scaled(path: str, x: jax.Array) -> jax.Array:
    """Smaller where a kernel adds to a residual stream; the projector as PyTorch starts it."""
    if re.search(r"(attention/(o|proj)|mlp/(down|fc2))/kernel$", path):
        return x / math.sqrt(2 * x.shape[0])
    if path.startswith("projector/") and path.endswith("kernel"):
        return x / math.sqrt(3)  # uniform within 1/sqrt(inputs)
    return x


def _new_of_tempo(params: Flat, head, ids: SpecialIds, seed: int, mesh) -> Flat:
    """What Tempo adds to its compressor (facts/tempo.md §1.3, §3.1).

    Memory tokens [K, D]: Normal(mean_d, std_d) of the embedding's columns. Direction [D]: the language
    head's rows of Yes and No, their difference formed in their own dtype.
    """

    def make(embedding: jax.Array, head: jax.Array | None) -> Flat:
        table = embedding.astype(jnp.float32)
        noise = jax.random.normal(jax.random.key(seed), params[MEMORY].shape)
        rows = embedding if head is None else head.T
        difference = rows[ids.yes].astype(jnp.float32) - rows[ids.no].astype(jnp.float32)
        dtype = jnp.finfo(rows.dtype)  # rounded to by force: XLA would keep what it has in registers
        return {
            MEMORY: table.mean(0) + table.std(0, ddof=1) * noise,
            DIRECTION: jax.lax.reduce_precision(difference, dtype.nexp, dtype.nmant),
        }

    where = {path: param_sharding(path, params[path].shape, mesh) for path in (MEMORY, DIRECTION)}
    made: Callable = jax.jit(make, out_shardings=where)
    return made(params[EMBEDDING], head)
