"""A Hugging Face checkpoint opened for reading as a native parameter tree.

Everything that is wrong with a checkpoint is found here, before a byte of it is converted, and told
in one message. Arrays are read one stack at a time, or one device's slice of it.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from convert import hf_config, mapping
from convert.safetensors_io import DTYPES, Reader, equal_bytes
from tempo_jax.errors import TempoError
from tempo_jax.models import config as cfg

FLOATS = ("BF16", "F16", "F32", "F64")
EMBED = "embed_tokens.weight"


@dataclasses.dataclass(frozen=True)
class Part:
    """A native array and the file it comes from."""

    tensor: mapping.Tensor
    reader: Reader

    @property
    def dtypes(self) -> list[str]:
        """Names of the HF tensors' dtypes, one per layer."""
        return [self.reader.infos[name].dtype for name in self.tensor.hf]

    @property
    def dtype(self) -> np.dtype:
        """The one dtype that holds all layers without loss: theirs, or a wider one where they differ."""
        found = set(self.dtypes)
        if len(found) == 1:
            return DTYPES[found.pop()]
        return DTYPES["F64" if "F64" in found else "F32"]

    def read(self, dtype: np.dtype) -> np.ndarray:
        """The whole native array, read layer by layer."""
        if not self.tensor.stacked:
            return self._layer(self.tensor.hf[0], ()).astype(dtype, copy=False)
        out = np.empty(self.tensor.shape, dtype)
        for i, name in enumerate(self.tensor.hf):
            copy_into(out[i], self._layer(name, ()))
        return out

    def read_slice(self, dtype: np.dtype, index: tuple[slice, ...]) -> np.ndarray:
        """`read(dtype)[index]`, touching little more of the files than that."""
        if not self.tensor.stacked:
            return np.ascontiguousarray(self._layer(self.tensor.hf[0], index).astype(dtype, copy=False))
        parts = [self._layer(name, index[1:]) for name in self.tensor.hf[index[0]]]
        out = np.empty((len(parts), *parts[0].shape), dtype)
        for target, part in zip(out, parts):
            copy_into(target, part)
        return out

    def _layer(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        flip = mapping.transposes(self.tensor.transform)
        shape = mapping.matrix_shape(self.tensor.transform, self.tensor.hf_shape)
        index = index or (slice(None),) * len(shape)
        read = self.reader.read_matrix(name, shape, index[::-1] if flip else index)
        return read.T if flip else read


def copy_into(target: np.ndarray, source: np.ndarray) -> None:
    """`target[...] = source`; bits are moved as integers, which numpy does faster than bfloat16."""
    if target.dtype == source.dtype:
        bits = np.dtype(f"u{target.dtype.itemsize}")
        target, source = target.view(bits), source.view(bits)
    if source.ndim < 2 or source.flags.c_contiguous:
        target[...] = source
        return
    for i in range(0, source.shape[0], 64):  # blocks of a transposition that stay in the cache
        target[i : i + 64] = source[i : i + 64]


class Source:
    """One HF checkpoint, checked: `kind`, `config`, `parts`. Close it, or use it as a context."""

    def __init__(self, model: str, folder: Path, base: Path | None = None, memory_tokens: int = 128):
        self.model, self.folder, self.base = model, folder, base
        self.kind = "tempo" if model == "tempo-init" else model
        self.reader = Reader(folder)
        self.base_reader = Reader(base) if base is not None else None
        self.heads: list[str] = []  # redundant copies of tied embeddings, to be written back
        if model == "tempo-init":
            self._open_init(memory_tokens)
        else:
            self.config = hf_config.parse(model, folder, self.reader.infos, base)
            naming = prefixes(self.reader) if model == "qwen3-vl" else mapping.QWEN3_VL_PREFIXES[0]
            tensors = mapping.tensors(model, self.config, naming)
            self.prefixes = naming
            self.parts = [Part(tensor, self.reader) for tensor in tensors]
            tied = mapping.tied_heads(model, self.config, tensors)
            problems = _problems(self.reader, tensors, set(tied))
            problems += self._tied_problems(tied)
            if self.kind == "tempo":
                problems += self._base_problems()
            _raise(folder, problems)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_) -> None:
        for reader in (self.reader, self.base_reader):
            if reader is not None:
                reader.__exit__()

    def direction(self) -> np.ndarray:
        """w_yes - w_no of the base model, the difference formed in its dtype: float32 [D] (facts §3.1)."""
        name = self._base_head()
        shape = self.base_reader.infos[name].shape
        yes, no = (
            self.base_reader.read_matrix(name, shape, (slice(i, i + 1),))[0]
            for i in (cfg.QWEN_IDS.yes, cfg.QWEN_IDS.no)
        )
        return (yes - no).astype(np.float32)

    def _open_init(self, memory_tokens: int) -> None:
        """Stage 0 of training: a Qwen3 global LLM and a Qwen3-VL compressor (facts §1.3)."""
        if self.base is None:
            raise TempoError(
                "--model=tempo-init needs the compressor too: pass --base with a Qwen3-VL folder"
            )
        llm = hf_config.parse("qwen3", self.folder, self.reader.infos)
        svlm = hf_config.parse("qwen3-vl", self.base, self.base_reader.infos)
        generation = hf_config.read_json(self.folder, "generation_config.json", required=False)
        values = hf_config.read_json(self.folder)
        self.config = cfg.TempoConfig(
            # The compressor's own language head goes; the relevance direction is taken from it first.
            compressor=dataclasses.replace(svlm, text=dataclasses.replace(svlm.text, tie_embeddings=True)),
            llm=llm,
            memory_tokens=memory_tokens,
            eos_ids=hf_config.eos_ids(values, generation),
        )
        self.prefixes = text, vision = prefixes(self.base_reader)
        theirs = [
            *mapping.vision_tensors(self.config.compressor.vision, vision, "compressor/vision/"),
            *mapping.decoder_tensors(self.config.compressor.text, text, "compressor/text/"),
        ]
        ours = mapping.decoder_tensors(llm, "model.", "llm/")
        self.parts = [Part(t, self.base_reader) for t in theirs] + [Part(t, self.reader) for t in ours]
        head = {mapping.HEAD} if llm.tie_embeddings else set()
        problems = _problems(self.reader, ours, head) + _problems(self.base_reader, theirs, {mapping.HEAD})
        problems += self._tied_problems(dict.fromkeys(head, ours[0].hf[0])) + self._base_problems()
        _raise(f"{self.folder} and {self.base}", problems)

    def _tied_problems(self, tied: dict[str, str]) -> list[str]:
        """A stored head must equal the embedding it is tied to; remembers those that are stored."""
        problems = []
        for head, embedding in tied.items():
            if head not in self.reader.infos or embedding not in self.reader.infos:
                continue
            self.heads.append(head)
            if not equal_bytes(self.reader, head, embedding):
                problems.append(
                    f"{head} differs from {embedding} although config.json says tie_word_embeddings: true"
                )
        return problems

    def _base_head(self) -> str:
        """The tensor whose rows are the base model's output words."""
        values = hf_config.read_json(self.base)
        tied = values.get("tie_word_embeddings", values["text_config"].get("tie_word_embeddings"))
        if mapping.HEAD in self.base_reader.infos and not tied:
            return mapping.HEAD
        return prefixes(self.base_reader)[0] + EMBED

    def _base_problems(self) -> list[str]:
        name, width = self._base_head(), self.config.compressor.text.hidden_size
        info = self.base_reader.infos.get(name)
        if info is None:
            return [f"missing in the base model {self.base}: {name}"]
        if len(info.shape) != 2 or info.shape[0] <= cfg.QWEN_IDS.yes or info.shape[1] != width:
            wanted = f"[more than {cfg.QWEN_IDS.yes}, {width}]"
            return [f"wrong shape in the base model: {name} is {list(info.shape)}, expected {wanted}"]
        return [] if info.dtype in FLOATS else [f"wrong dtype in the base model: {name} is {info.dtype}"]


def prefixes(reader: Reader) -> tuple[str, str]:
    """The naming that a Qwen3-VL checkpoint uses; the published one when none fits."""
    for naming in mapping.QWEN3_VL_PREFIXES:
        if naming[0] + EMBED in reader.infos:
            return naming
    return mapping.QWEN3_VL_PREFIXES[0]


def _problems(reader: Reader, tensors: list[mapping.Tensor], allowed: set[str]) -> list[str]:
    """Missing, unexpected, wrongly shaped and wrongly typed tensors, as phrases."""
    expected = {name: tensor.hf_shape for tensor in tensors for name in tensor.hf}
    found = reader.infos
    shapes = [(n, s) for n, s in expected.items() if n in found and found[n].shape != s]
    out = []
    if missing := [n for n in expected if n not in found]:
        out.append(f"missing: {', '.join(missing)}")
    if unexpected := [n for n in found if n not in expected and n not in allowed]:
        out.append(f"unexpected: {', '.join(unexpected)}")
    if shapes:
        text = (f"{n} is {list(found[n].shape)}, expected {list(s)}" for n, s in shapes)
        out.append(f"wrong shape: {', '.join(text)}")
    if types := [n for n in expected if n in found and found[n].dtype not in FLOATS]:
        text = (f"{n} is {found[n].dtype}" for n in types)
        out.append(f"wrong dtype (expected one of {', '.join(FLOATS)}): {', '.join(text)}")
    return out


def _raise(where: Any, problems: list[str]) -> None:
    if problems:
        raise TempoError(f"{where} does not fit its config.json; " + "; ".join(problems))
