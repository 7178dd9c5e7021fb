"""Compares logits of a native checkpoint and of PyTorch on random tokens, image and video, in float32.

    python -m convert.verify --native=DIR --hf=DIR [--base=DIR] --logits

Needs the test extra (PyTorch) and memory for both models in float32.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tempo_jax import checkpoint
from tempo_jax.errors import TempoError
from tempo_jax.models import build
from tempo_jax.models import config as cfg

TOLERANCE = 1e-4  # relative to the largest logit; rounding alone is some 1e-6
TOP = 10
TEXT, GRID, SLICES = 12, (4, 6), 2  # tokens of text around the pictures; patches and slices of a picture


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One input's logits, position by position."""

    what: str
    relative: np.ndarray  # largest difference over the largest logit
    kl: np.ndarray  # of ours from PyTorch's distribution, nats
    top: np.ndarray  # how many of PyTorch's ten likeliest tokens are among ours

    @property
    def equal(self) -> bool:
        return bool(np.isfinite(self.relative).all() and self.relative.max() < TOLERANCE)

    def lines(self) -> list[str]:
        """A summary and a line per position."""
        worst = int(np.nanargmax(self.relative))
        out = [
            f"{self.what}: largest relative difference {self.relative.max():.2g} (position {worst}), "
            f"KL at most {self.kl.max():.2g} nats, {np.mean(self.top) / TOP:.1%} of the {TOP} likeliest agree"
        ]
        rows = zip(self.relative, self.kl, self.top)
        return out + [f"  {i:4d}  {r:9.2g}  KL {k:9.2g}  top {t}/{TOP}" for i, (r, k, t) in enumerate(rows)]


def compare(
    native: str | os.PathLike, hf: str | os.PathLike, base: str | os.PathLike | None = None, seed: int = 0
) -> list[Comparison]:
    """Compares, for every kind of model; TempoError where PyTorch is missing or does not load the folder."""
    try:
        from convert import torch_models as theirs
    except ImportError as error:
        raise TempoError(
            f"--logits needs PyTorch and transformers ({error}): pip install -e '.[test]' in the clone"
        ) from error
    import jax

    model = checkpoint.read_model_json(native)
    if model.kind == "tempo" and base is None:
        raise TempoError("--logits of a Tempo needs the base model's config.json too: pass --base")
    dtypes = {str(leaf.dtype) for leaf in checkpoint.param_shapes(native).values()}
    params = checkpoint.load_params(native, dtype="float32")
    ours = build.build(model.config, params)
    run = {"qwen3": _decoder, "qwen3-vl": _qwen3_vl, "tempo": _tempo, "xcomp": _xcomp}[model.kind]
    with jax.default_matmul_precision("highest"), theirs.torch.no_grad():
        pairs = run(
            ours, model.config, theirs, (Path(hf), base and Path(base)), np.random.RandomState(seed), dtypes
        )
        return [_comparison(what, *pair) for what, *pair in pairs]


def _comparison(what: str, native_logits: Any, torch_logits: Any) -> Comparison:
    native_logits, torch_logits = (
        np.asarray(native_logits, np.float64),
        torch_logits.numpy().astype(np.float64),
    )
    scale = max(float(np.abs(torch_logits).max()), 1e-30)
    p, q = _log_softmax(torch_logits), _log_softmax(native_logits)
    likeliest = np.argsort(-torch_logits, axis=-1)[:, :TOP], np.argsort(-native_logits, axis=-1)[:, :TOP]
    return Comparison(
        what,
        np.abs(native_logits - torch_logits).max(-1) / scale,
        np.maximum((np.exp(p) * (p - q)).sum(-1), 0),
        np.array([len(set(a) & set(b)) for a, b in zip(*likeliest)]),
    )


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _loaded(theirs: Any, load: Any, *where: Any, dtypes: set[str]) -> Any:
    """PyTorch's model; in the native one's precision where that was converted to bfloat16."""
    try:
        model = load(*where)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise TempoError(f"PyTorch does not load {where[0]} ({reason})") from error
    if dtypes <= {"bfloat16", "float32"} and "bfloat16" in dtypes:
        for part in [model] if isinstance(model, theirs.torch.nn.Module) else vars(model).values():
            if isinstance(part, theirs.torch.nn.Module):
                theirs.rounded(part, theirs.torch.bfloat16)
    return model


@functools.cache
def _programs() -> dict[str, Any]:
    """Our sides, compiled once for each shape."""
    import jax
    import jax.numpy as jnp

    def positions(x):
        return jnp.arange(x.shape[1])[None]

    def see_and_read(model, patches, rows, grid):
        hidden = model(model.encode_patches(patches, grid), rows)
        return model.text.logits(hidden)

    def tempo(model, ids, patches, rows, length, grid):
        memory, _ = model.compressor(model.compressor.encode_patches(patches, grid), rows, length)
        x = jnp.concatenate([model.llm.embed(ids), model.projector(memory)], 1)
        return model.llm.logits(model.llm(x, positions(x)))

    def xcomp(model, ids, pixels, step):
        seen = model.projector(model.vision(pixels))[:, ::step]
        x = jnp.concatenate([model.llm.embed(ids), seen], 1)
        return model.llm.logits(model.llm(x, positions(x)))

    return {
        "decoder": jax.jit(lambda model, ids: model.logits(model(model.embed(ids), positions(ids)))),
        "qwen3-vl": jax.jit(see_and_read, static_argnames="grid"),
        "tempo": jax.jit(tempo, static_argnames="grid"),
        "xcomp": jax.jit(xcomp, static_argnames="step"),
    }


def _tokens(rng: np.random.RandomState, count: int, vocab: int, pads: set[int]) -> np.ndarray:
    """Random ids that stand for themselves."""
    ids = rng.randint(0, min(vocab, cfg.QWEN_IDS.end_of_text), count)
    return np.where(np.isin(ids, sorted(pads)), 0 if 0 not in pads else max(pads) + 1, ids)


def _decoder(ours, config, theirs, where, rng, dtypes) -> Iterator[tuple]:
    model = _loaded(theirs, theirs.decoder, where[0], dtypes=dtypes)
    ids = _tokens(rng, 4 * TEXT, config.vocab_size, set())[None]
    yield "tokens", _programs()["decoder"](ours, ids)[0], model(theirs.torch.tensor(ids)).logits[0]


class _Prompt:
    """A row of text around a picture, for both sides; `kind` tokens has none."""

    def __init__(self, rng, kind: str, config: cfg.Qwen3VLConfig, their_config: Any, theirs: Any):
        merge, vision = config.vision.spatial_merge_size, config.vision
        pads = {their_config.image_token_id, their_config.video_token_id}
        pad = None if kind == "tokens" else getattr(their_config, f"{kind}_token_id")
        slices = {"tokens": 0, "image": 1, "video": SLICES}[kind]
        vocab = config.text.vocab_size
        row = list(_tokens(rng, TEXT, vocab, pads))
        for _ in range(slices):
            row += [*_tokens(rng, 3, vocab, pads), *[pad] * (GRID[0] * GRID[1])]
        self.row = [int(x) for x in (*row, *_tokens(rng, TEXT, vocab, pads))]
        self.pad, self.fits = pad, pad is None or pad < vocab
        self.grid = (GRID[0] * merge, GRID[1] * merge)
        shape = (max(slices, 1), self.grid[0] * self.grid[1], vision.patch_dim)
        self.patches = rng.uniform(-1, 1, shape).astype(np.float32)
        self.ids = theirs.torch.tensor([self.row])
        self.types = (self.ids == (-1 if pad is None else pad)).int() * {"image": 1, "video": 2}.get(kind, 0)
        pixels = "pixel_values" if kind == "image" else "pixel_values_videos"
        self.visual = {} if kind == "tokens" else {
            pixels: theirs.torch.tensor(self.patches.reshape(-1, vision.patch_dim)),
            f"{kind}_grid_thw": theirs.torch.tensor([[slices, *self.grid]]),
        }  # fmt: skip

    def rows(self, room: int = 0) -> Any:
        """Our layout of it, with room for memory tokens."""
        from tempo_jax.models.qwen3_vl import PromptBatch
        from tempo_jax.prompts import pad_rows

        row = [*self.row, *[0] * room]
        if self.pad is None:
            places = np.broadcast_to(np.arange(len(row), dtype=np.int32), (3, 1, len(row)))
            return PromptBatch(np.array([row], np.int32), np.full((1, len(row)), -1, np.int32), places)
        ids = cfg.QWEN_IDS._replace(image_pad=self.pad, video_pad=self.pad)
        return PromptBatch(*pad_rows([row], len(row), GRID, ids)[:3])


def _qwen3_vl(ours, config, theirs, where, rng, dtypes) -> Iterator[tuple]:
    model = _loaded(theirs, theirs.qwen3_vl, where[0], dtypes=dtypes)
    for kind in ("tokens", "image", "video"):
        prompt = _Prompt(rng, kind, config, model.config, theirs)
        if prompt.fits:  # a vocabulary may have no pictures
            expected = model(prompt.ids, mm_token_type_ids=prompt.types, **prompt.visual).logits[0]
            found = _programs()["qwen3-vl"](ours, prompt.patches[None], prompt.rows(), prompt.grid)
            yield kind, found[0], expected


def _tempo(ours, config, theirs, where, rng, dtypes) -> Iterator[tuple]:
    model = _loaded(theirs, theirs.Tempo, *where, dtypes=dtypes)
    ids = _tokens(rng, 2 * TEXT, config.llm.vocab_size, set())[None]
    torch_ids = theirs.torch.tensor(ids)
    yield "tokens", _programs()["decoder"](ours.llm, ids)[0], model.llm(torch_ids).logits[0]
    for kind in ("image", "video"):
        prompt = _Prompt(rng, kind, config.compressor, model.svlm.config, theirs)
        if not prompt.fits:
            continue
        memory = model.compress(prompt.ids, prompt.types, prompt.visual)
        embedded = model.llm.get_input_embeddings()(torch_ids)
        expected = model.llm(inputs_embeds=theirs.torch.cat([embedded, memory], 1)).logits[0]
        rows, length = prompt.rows(config.memory_tokens), np.array([len(prompt.row)])
        found = _programs()["tempo"](ours, ids, prompt.patches[None], rows, length, prompt.grid)
        yield kind, found[0], expected


def _xcomp(ours, config, theirs, where, rng, dtypes) -> Iterator[tuple]:
    model = _loaded(theirs, theirs.XComp, where[0], dtypes=dtypes)
    ids = _tokens(rng, 2 * TEXT, config.llm.vocab_size, set())[None]
    torch_ids = theirs.torch.tensor(ids)
    yield "tokens", _programs()["decoder"](ours.llm, ids)[0], model.llm(torch_ids).logits[0]
    size, step = config.vision.image_size, config.vision.patches_per_side**2 // config.frame_tokens
    for kind, frames in (("image", 1), ("video", SLICES)):
        pixels = rng.standard_normal((frames, size, size, config.vision.in_channels)).astype(np.float32)
        seen = model.features(theirs.torch.tensor(pixels.transpose(0, 3, 1, 2)))[:, ::step]
        embedded = model.llm.get_input_embeddings()(torch_ids)
        expected = model.llm(inputs_embeds=theirs.torch.cat([embedded, seen], 1)).logits[0]
        yield kind, _programs()["xcomp"](ours, ids, pixels[None], step)[0], expected
