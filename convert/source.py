"""A Hugging Face checkpoint opened for reading as a native parameter tree.

Everything that is wrong with a checkpoint is found here, before a byte of it is converted, and told
in one message. Arrays are read one stack at a time, or one device's slice of it.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from convert import hf_config, mapping, overlays, refusals
from convert.safetensors_io import DTYPES, Reader, equal_bytes, some
from tempo_jax.errors import TempoError
from tempo_jax.models import config as cfg
from tempo_jax.utils import stored_arrays

FLOATS = ("BF16", "F16", "F32", "F64")
EMBED = "embed_tokens.weight"
AnyReader = Reader | overlays.Overlay


@dataclasses.dataclass(frozen=True)
class SourceTensor:
    """A native array and the file it comes from."""

    tensor: mapping.TensorSpec
    reader: AnyReader

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

    @property
    def nbytes(self) -> int:
        """Size of the native array in its own dtype."""
        return math.prod(self.tensor.shape) * self.dtype.itemsize

    def read(self, dtype: np.dtype, seen: Callable[[int], None] = lambda nbytes: None) -> np.ndarray:
        """The whole native array, read layer by layer; `seen` is called with the bytes of each."""
        if not self.tensor.stacked:
            whole = self._layer(self.tensor.hf[0], ()).astype(dtype, copy=False)
            whole = contiguous(whole)
            seen(self.nbytes)
            return whole
        out = np.empty(self.tensor.shape, dtype)
        for i, name in enumerate(self.tensor.hf):
            copy_into(out[i], self._layer(name, ()))
            seen(self.nbytes // len(self.tensor.hf))
        return out

    def read_slice(self, dtype: np.dtype, index: tuple[slice, ...]) -> np.ndarray:
        """`read(dtype)[index]`, touching little more of the files than that, one layer at a time."""
        if not self.tensor.stacked:
            part = self._layer(self.tensor.hf[0], index)
            if part.dtype == dtype and not part.flags.c_contiguous:
                return contiguous(part)
            out = stored_arrays.empty(part.shape, dtype)
            copy_into(out, part)
            return out
        names, out = self.tensor.hf[index[0]], None
        for i, name in enumerate(names):
            part = self._layer(name, index[1:])
            if out is None:
                out = stored_arrays.empty((len(names), *part.shape), dtype)
            copy_into(out[i], part)
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
    target[...] = source if source.ndim < 2 or source.flags.c_contiguous else contiguous(source)


def contiguous(array: np.ndarray) -> np.ndarray:
    """`array` in rows. XLA transposes ten times as fast as numpy, whose loop goes number by number."""
    if array.ndim < 2 or array.flags.c_contiguous or array.dtype.itemsize > 4:
        return np.ascontiguousarray(array)
    import jax

    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names another backend alone
        return np.ascontiguousarray(array)
    return np.asarray(jax.device_put(array, device))


class Source:
    """One HF checkpoint, checked: `kind`, `config`, `parts`. Close it, or use it as a context.

    `notes`: sentences about what was read otherwise than another transformers reads it.
    """

    def __init__(
        self,
        model: str,
        folder: Path,
        base: Path | None = None,
        memory_tokens: int = 128,
        adapter: Path | None = None,
        *,
        mapped: bool = False,
    ):
        """`mapped`: as for Reader; for `read_slice`, which copies what it reads."""
        self.model, self.folder, self.base = model, Path(folder), base
        self.kind = "tempo" if model == "tempo-init" else model
        self.notes: list[str] = []
        self.heads: list[str] = []  # redundant copies of tied embeddings, to be written back
        kind = "qwen3" if model == "tempo-init" else model
        self.reader = _open(kind, self.folder, adapter, mapped=mapped)
        self.base_reader = _open("qwen3-vl", Path(base)) if base is not None else None
        if model == "tempo-init":
            self._open_init(memory_tokens)
            return
        self.config = hf_config.parse(model, self.folder, self.reader.infos, base, self.notes)
        self.bare = mapping.is_bare(model, self.reader.infos)
        tensors = mapping.tensors(model, self.config, bare=self.bare)
        self.parts = [SourceTensor(tensor, self.reader) for tensor in tensors]
        tied = mapping.tied_heads(model, self.config, tensors)
        problems = _problems(self.reader, tensors, set(tied))
        problems += self._tied_problems(tied)
        if self.kind == "tempo":
            problems += self._base_problems()
        _raise(folder, problems, self.reader)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_) -> None:
        for reader in (self.reader, self.base_reader):
            if reader is not None:
                reader.__exit__()

    def direction(self) -> np.ndarray:
        """w_yes - w_no of the base model in its dtype: float32 [D] (docs/reference/tempo.md#relevance)."""
        name = self._base_head()
        shape = self.base_reader.infos[name].shape
        yes, no = (
            self.base_reader.read_matrix(name, shape, (slice(i, i + 1), slice(None)))[0]
            for i in (cfg.QWEN_IDS.yes, cfg.QWEN_IDS.no)
        )
        return (yes - no).astype(np.float32)

    def _open_init(self, memory_tokens: int) -> None:
        """Stage 0 of training: a Qwen3 global LLM and a Qwen3-VL compressor."""
        if self.base is None:
            raise TempoError(
                "--model=tempo-init needs the compressor too: pass --base with a Qwen3-VL folder"
            )
        llm = hf_config.parse("qwen3", self.folder, self.reader.infos, notes=self.notes)
        svlm = hf_config.parse("qwen3-vl", self.base, self.base_reader.infos, notes=self.notes)
        generation = hf_config.read_json(self.folder, "generation_config.json", required=False)
        values = hf_config.read_json(self.folder)
        # The compressor's own language head goes; the relevance direction is taken from it first.
        svlm = dataclasses.replace(svlm, text=dataclasses.replace(svlm.text, tie_embeddings=True))
        self.config = cfg.TempoConfig(
            compressor=svlm,
            llm=llm,
            memory_tokens=memory_tokens,
            eos_ids=hf_config.eos_ids(values, generation),
        )
        self.bare = False  # of the Tempo that is exported
        compressor_tensors = _within("compressor/", "qwen3-vl", svlm, self.base_reader)
        llm_tensors = _within("llm/", "qwen3", llm, self.reader)
        self.parts = [SourceTensor(t, self.base_reader) for t in compressor_tensors]
        self.parts += [SourceTensor(t, self.reader) for t in llm_tensors]
        head = {mapping.HEAD} if llm.tie_embeddings else set()
        problems = _problems(self.reader, llm_tensors, head)
        problems += _problems(self.base_reader, compressor_tensors, {mapping.HEAD})
        problems += self._tied_problems(dict.fromkeys(head, llm_tensors[0].hf[0])) + self._base_problems()
        _raise(f"{self.folder} and {self.base}", problems, self.reader, self.base_reader)

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
        if mapping.HEAD in self.base_reader.infos and not hf_config.tied_vl(values):
            return mapping.HEAD
        bare = mapping.is_bare("qwen3-vl", self.base_reader.infos)
        return f"{'' if bare else mapping.MODEL}language_model.{EMBED}"

    def _base_problems(self) -> list[str]:
        name, width = self._base_head(), self.config.compressor.text.hidden_size
        info = self.base_reader.infos.get(name)
        if info is None:
            return [f"missing in the base model {self.base}: {name}"]
        if len(info.shape) != 2 or info.shape[0] <= cfg.QWEN_IDS.yes or info.shape[1] != width:
            wanted = f"[more than {cfg.QWEN_IDS.yes}, {width}]"
            return [f"wrong shape in the base model: {name} is {list(info.shape)}, expected {wanted}"]
        return [] if info.dtype in FLOATS else [f"wrong dtype in the base model: {name} is {info.dtype}"]


def _within(native: str, kind: str, config: Any, reader: AnyReader) -> list[mapping.TensorSpec]:
    """The tensors of a model that becomes a part of another."""
    tensors = mapping.tensors(kind, config, bare=mapping.is_bare(kind, reader.infos))
    return [dataclasses.replace(tensor, native=native + tensor.native) for tensor in tensors]


def _open(kind: str, folder: Path, adapter: Path | None = None, *, mapped: bool = False) -> AnyReader:
    refusals.check_folder(folder)
    hf_config.check_model_type(kind, hf_config.read_json(folder), folder)
    return open_folder(folder, adapter, mapped=mapped)


def open_folder(folder: Path, adapter: Path | None = None, *, mapped: bool = False) -> AnyReader:
    """A reader of a folder's tensors, dequantized and with an adapter merged in."""
    refusals.check_folder(folder)
    values = hf_config.read_json(folder)
    reader: AnyReader = Reader(folder, values.get("transformers_weights"), mapped=mapped)
    block = overlays.fp8_block(values)
    if block:
        reader = overlays.Fp8(reader, block)
    else:
        refusals.check_quantization(values, reader.infos, folder)
    return reader if adapter is None else overlays.Lora(reader, Path(adapter))


def _problems(reader: AnyReader, tensors: list[mapping.TensorSpec], allowed: set[str]) -> list[str]:
    """Missing, unexpected, wrongly shaped and wrongly typed tensors, as phrases."""
    expected = {name: tensor for tensor in tensors for name in tensor.hf}
    infos = reader.infos
    out = _counts(infos, tensors)
    if missing := [n for n in expected if n not in infos]:
        out.append(f"missing: {some(missing)}")
    if unexpected := [n for n in infos if n not in expected and n not in allowed]:
        out.append(f"unexpected: {some(unexpected)}")
    if shapes := [n for n in expected if n in infos and infos[n].shape != expected[n].hf_shape]:
        out.append(f"wrong shape: {some([_shape(n, infos[n].shape, expected[n]) for n in shapes])}")
    if types := [n for n in expected if n in infos and infos[n].dtype not in FLOATS]:
        text = [f"{n} is {infos[n].dtype}" for n in types]
        out.append(f"wrong dtype (expected one of {', '.join(FLOATS)}): {some(text)}")
    return out


def _shape(name: str, stored_shape: tuple[int, ...], tensor: mapping.TensorSpec) -> str:
    """A tensor's shape and the expected one, with the fields of config.json that determine it."""
    text = f"{name} is {list(stored_shape)}, expected {list(tensor.hf_shape)}"
    pairs = (
        zip(stored_shape, tensor.hf_shape, tensor.fields) if len(stored_shape) == len(tensor.hf_shape) else ()
    )
    fields = dict.fromkeys(field for have, want, field in pairs if have != want and not field.endswith("."))
    return f"{text} ({', '.join(fields)})" if any(fields) else text


COUNTED = (  # how layers are numbered -> the field that says how many there are
    (r"(?:model\.)?layers\.(\d+)\.", "num_hidden_layers"),
    (r".*language_model\.layers\.(\d+)\.", "text_config.num_hidden_layers"),
    (r".*visual\.blocks\.(\d+)\.", "vision_config.depth"),
    (r".*visual\.deepstack_merger_list\.(\d+)\.", "vision_config.deepstack_visual_indexes"),
)


def _counts(infos: Any, tensors: list[mapping.TensorSpec]) -> list[str]:
    """Differences between the numbers of layers in the files and in config.json."""
    out = []
    names = [name for tensor in tensors for name in tensor.hf]
    for pattern, field in COUNTED:
        have, want = (
            {int(match[1]) for match in (re.match(pattern, name) for name in some_names) if match}
            for some_names in (infos, names)
        )
        if len(have) != len(want) and have:
            out.append(f"config.json's {field} makes {len(want)} layers where the files hold {len(have)}")
    return out


def _raise(location: Any, problems: list[str], *readers: AnyReader) -> None:
    if not problems:
        return
    for reader in readers:
        if known := refusals.foreign(reader.infos):
            raise TempoError(f"{location} is {known[0]}: {known[1]}")
    raise TempoError(f"{location} does not fit its config.json; " + "; ".join(problems))
