"""Weights that are computed while they are read: block-scaled FP8, and LoRA adapters merged in.

Both look like a `safetensors_io.Reader` of plain tensors, so that a shard of a pod's mesh computes its own
rows and columns only.
"""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from convert.safetensors_io import DTYPES, Info, Reader, some
from tempo_jax.errors import TempoError

SCALE = "_scale_inv"
BF16 = np.dtype(ml_dtypes.bfloat16)
Index = tuple[slice, ...]


class Overlay:
    """A reader whose tensors are another's, changed; `infos` says what they then are."""

    def __init__(self, reader: "Reader | Overlay"):
        self.reader = reader
        self.infos: dict[str, Info] = dict(reader.infos)

    @property
    def bytes_read(self) -> int:
        return self.reader.bytes_read

    def __enter__(self) -> "Overlay":
        return self

    def __exit__(self, *error) -> None:
        self.reader.__exit__(*error)

    def read(self, name: str) -> np.ndarray:
        """The whole tensor."""
        shape = self.infos[name].shape
        return self.read_matrix(name, shape, tuple(slice(None) for _ in shape))

    def read_matrix(self, name: str, shape: tuple[int, ...], index: Index) -> np.ndarray:
        """Reads a matrix as `Reader.read_matrix` does."""
        raise NotImplementedError


class Fp8(Overlay):
    """FP8 weights with a scale for each block, as bfloat16: weight x scale in float32, then rounded.

    As transformers does it (`FineGrainedFP8Config(dequantize=True)`).
    """

    def __init__(self, reader: Reader, block: tuple[int, int]):
        super().__init__(reader)
        self.block = block
        problems = []
        for name, info in reader.infos.items():
            if not name.endswith(SCALE):
                continue
            self.infos.pop(name)
            weight = name.removesuffix(SCALE)
            of = reader.infos.get(weight)
            if of is None or of.dtype != "F8_E4M3" or len(of.shape) != 2:
                problems.append(f"{name} scales no FP8 matrix")
            elif info.shape != self._grid(of.shape) or info.dtype not in ("F32", "BF16", "F16"):
                problems.append(
                    f"{name} is {info.dtype} {list(info.shape)}, expected {list(self._grid(of.shape))}"
                )
            else:
                self.infos[weight] = dataclasses.replace(of, dtype="BF16")
        if problems:
            raise TempoError(f"the FP8 scales do not fit; {some(problems)}: fetch the model again")

    def read_matrix(self, name: str, shape: tuple[int, ...], index: Index) -> np.ndarray:
        if name + SCALE not in self.reader.infos:
            return self.reader.read_matrix(name, shape, index)
        weight = self.reader.read_matrix(name, shape, index)
        rows, columns = (range(*s.indices(n)) for s, n in zip(_two(index), shape))
        scales = self.reader.read(name + SCALE).astype(np.float32)
        spread = scales[np.ix_(np.asarray(rows) // self.block[0], np.asarray(columns) // self.block[1])]
        return (weight.astype(np.float32) * spread).astype(BF16)

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(math.ceil(n / size) for n, size in zip(shape, self.block))


def fp8_block(values: dict) -> tuple[int, int] | None:
    """The block size of a config.json's quantization_config where `Fp8` reads it, else None."""
    quantization = values.get("quantization_config")
    if (
        not isinstance(quantization, dict)
        or quantization.get("quant_method") != "fp8"
        or quantization.get("fmt", "e4m3") != "e4m3"
    ):
        return None
    if quantization.get("scale_fmt", "float") != "float":
        return None
    block = quantization.get("weight_block_size", [128, 128])
    good = isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)
    return tuple(block) if good else None


@dataclasses.dataclass(frozen=True)
class Delta:
    """The update of an adapter to a tensor: scale x (up @ down), transposed for embeddings."""

    up: str
    down: str
    scale: float
    embedding: bool


MATRIX = re.compile(
    r"base_model\.model\.(?P<module>.+)\.(?P<kind>lora|lora_embedding)_(?P<side>[AB])(?:\.weight)?"
)
WHOLE = re.compile(r"base_model\.model\.(?:(?P<module>.+)\.modules_to_save\.)?(?P<name>(?!.*\.lora_).+)")
# Fields of adapter_config.json that change what is added, and the only values that can be followed.
PLAIN = {
    "bias": ("none", None), "use_dora": (False, None), "use_qalora": (False, None),
    "lora_bias": (False, None), "layer_replication": (None,), "trainable_token_indices": (None,),
    "megatron_config": (None,), "alora_invocation_tokens": (None,), "target_parameters": (None, []),
    "arrow_config": (None,),
}  # fmt: skip


class Lora(Overlay):
    """A model with a LoRA adapter of PEFT merged in: weight + scale x (B @ A), formed in float32.

    Modules that were trained whole (`modules_to_save`) take the place of the model's.
    """

    def __init__(self, reader: Reader | Overlay, folder: Path):
        super().__init__(reader)
        self.folder = folder
        values = _adapter_config(folder)
        self.adapter = Reader(folder / "adapter_model.safetensors")
        self.deltas: dict[str, Delta] = {}
        self.replaced: dict[str, str] = {}
        problems = []
        found: dict[tuple[str, str], dict[str, str]] = {}
        for name, info in self.adapter.infos.items():
            matrix, whole = MATRIX.fullmatch(name), WHOLE.fullmatch(name)
            if info.dtype not in ("F32", "F16", "BF16") or not (matrix or whole):
                problems.append(name)
            elif matrix:
                found.setdefault((matrix["module"], matrix["kind"]), {})[matrix["side"]] = name
            else:
                module = f"{whole['module']}." if whole["module"] else ""
                # PEFT saves the embedding that its matrices are added to with them, as base_layer.
                self.replaced[module + whole["name"].replace(".base_layer.", ".")] = name
        for (module, kind), sides in found.items():
            target = f"{module}.weight"
            if sides.keys() != {"A", "B"} or not self._fits(target, kind, sides):
                problems.append(target)
                continue
            self.deltas[target] = Delta(sides["B"], sides["A"], _scale(values, module, self._rank(sides)),
                                        kind == "lora_embedding")  # fmt: skip
        shapes = {target: self.adapter.infos[name].shape for target, name in self.replaced.items()}
        problems += [t for t, s in shapes.items() if t not in reader.infos or reader.infos[t].shape != s]
        if problems or not found:
            what = some(problems) if problems else "it holds no LoRA matrices"
            raise TempoError(f"the adapter {folder} does not fit the model: {what}")

    def __exit__(self, *error) -> None:
        self.adapter.__exit__(*error)
        super().__exit__(*error)

    def read_matrix(self, name: str, shape: tuple[int, ...], index: Index) -> np.ndarray:
        if name in self.replaced:
            weight = self.adapter.read_matrix(self.replaced[name], shape, index)
            weight = weight.astype(DTYPES[self.infos[name].dtype])
        else:
            weight = self.reader.read_matrix(name, shape, index)
        delta = self.deltas.get(name)
        if delta is None:
            return weight
        up, down = (self.adapter.read(side).astype(np.float32) for side in (delta.up, delta.down))
        rows, columns = _two(index)
        added = (down.T[rows] @ up.T[:, columns]) if delta.embedding else (up[rows] @ down[:, columns])
        return (weight.astype(np.float32) + np.float32(delta.scale) * added).astype(weight.dtype)

    def _fits(self, target: str, kind: str, sides: dict[str, str]) -> bool:
        if target not in self.infos or len(self.infos[target].shape) != 2:
            return False
        down, up = (self.adapter.infos[sides[side]].shape for side in ("A", "B"))
        shape = self.infos[target].shape
        wanted = shape[::-1] if kind == "lora_embedding" else shape
        return len(up) == len(down) == 2 and (up[0], down[1]) == wanted and up[1] == down[0]

    def _rank(self, sides: dict[str, str]) -> int:
        return self.adapter.infos[sides["A"]].shape[0]


def _adapter_config(folder: Path) -> dict:
    path = folder / "adapter_config.json"
    if not path.is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise TempoError(
            f"{folder} is no adapter of PEFT: it needs adapter_config.json and adapter_model.safetensors"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise TempoError(f"{path} is not JSON ({error}): fetch it again") from error
    odd = [
        f"{name}={values[name]!r}"
        for name, allowed in PLAIN.items()
        if values.get(name, allowed[0]) not in allowed
    ]
    if values.get("peft_type") != "LORA":
        odd.insert(0, f"peft_type={values.get('peft_type')!r}")
    if values.get("fan_in_fan_out"):
        odd.append("fan_in_fan_out=True")
    if odd:
        raise TempoError(
            f"the adapter {folder} has {', '.join(odd)}, which is not supported: merge it with PEFT "
            "(merge_and_unload) and save_pretrained the result"
        )
    return values


def _scale(values: dict, module: str, rank: int) -> float:
    """lora_alpha / r, or / sqrt(r) with rank-stabilized LoRA; patterns give some modules their own."""

    def of(pattern: str, default: Any) -> Any:
        found = values.get(pattern) or {}
        return next((v for key, v in found.items() if re.match(rf"(.*\.)?({key})$", module)), default)

    alpha = of("alpha_pattern", values.get("lora_alpha", 8))
    stated = of("rank_pattern", values.get("r", rank))
    if stated != rank:
        raise TempoError(f"the adapter's {module} has rank {rank} where adapter_config.json says {stated}")
    return alpha / math.sqrt(rank) if values.get("use_rslora") else alpha / rank


def _two(index: Index) -> tuple[slice, slice]:
    rows, columns = (*index, slice(None), slice(None))[:2]
    return rows, columns
