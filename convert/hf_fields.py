"""The fields of Hugging Face config.json files, read as transformers reads them, or refused by name.

transformers 5 and 4.57 differ in a few places (`Written`): a file is read as the generation that wrote it
does. Problems are collected and reported at once. Sources: transformers 5.23 and 4.57.1,
models/{qwen2,qwen3,qwen3_vl}/, modeling_rope_utils.py; both without PyTorch, and neither imported here.
"""

import dataclasses
import json
import math
from typing import Any

from tempo_jax.errors import TempoError

REQUIRED = object()
# What changes the numbers and cannot be followed: the only values there may be.
FIXED_TEXT = {"hidden_act": ("silu",), "attention_bias": (False,), "is_causal": (True,)}
FIXED_VISION = {"hidden_act": ("gelu_pytorch_tanh",)}
NOT_OF_QWEN2 = ("attention_bias",)  # which always has it, on q, k and v
THETA = 10_000.0  # of Qwen2, Qwen3 and every vision tower, where config.json says nothing
VL_THETA = {4: 5_000_000.0, 5: 500_000.0}


@dataclasses.dataclass
class Fields:
    """One section of a config.json. `problems` and `notes` are shared by the sections of a file."""

    values: dict
    section: str = ""
    generation: int = 5  # of transformers, as whose the file is read
    written: str = ""  # by which transformers, where the file says so
    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def of_file(cls, values: dict) -> "Fields":
        return cls(
            values, generation=generation(values), written=str(values.get("transformers_version") or "")
        )

    def part(self, name: str) -> "Fields":
        """A section inside of this one."""
        values = self.values.get(name)
        if not isinstance(values, dict):
            self._problem(name)
            values = {}
        return dataclasses.replace(self, values=values, section=f"{self.section}{name}.")

    def whole(self, name: str, default: Any = REQUIRED, low: int = 1) -> int:
        """A whole number of at least `low`."""
        value = self._get(name, default)
        if type(value) is not int or value < low:
            self._problem(name)
            return low
        return value

    def number(self, name: str, default: Any = REQUIRED) -> float:
        """A finite number above 0."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            self._problem(name)
            return 1.0
        return float(value)

    def truth(self, name: str, default: bool) -> bool:
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            self._problem(name)
        return bool(value)

    def wholes(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of whole numbers of at least 0."""
        value = self.values.get(name, default)
        if not isinstance(value, list | tuple) or not all(type(x) is int and x >= 0 for x in value):
            self._problem(name)
            return default
        return tuple(value)

    def fixed(self, allowed: dict[str, tuple], but: tuple[str, ...] = ()) -> None:
        """Fields that may be left out, or have one of the values given."""
        for name, values in allowed.items():
            if name not in but and name in self.values and self.values[name] not in values:
                self._problem(name)

    def refuse(self, text: str) -> None:
        """A problem in words of its own, which begin with the field's name."""
        self.problems.append(f"{self.section}{text}")

    def done(self, what: str) -> None:
        """TempoError where anything was wrong."""
        if self.problems:
            shown = ", ".join(dict.fromkeys(self.problems))
            raise TempoError(f"{what} has {shown}, which is not supported")

    def differ(self, name: str, value: Any, other_value: Any) -> Any:
        """`ours`; noted where the other generation of transformers reads it as `theirs`."""
        if value != other_value:
            by = f"was written by {self.written}" if self.written else "does not say which wrote it"
            self.notes.append(
                f"{self.section}{name} is {value}, as transformers {self.generation} reads it "
                f"(transformers {9 - self.generation}: {other_value}); the file {by}"
            )
        return value

    def _get(self, name: str, default: Any) -> Any:
        if default is REQUIRED and name not in self.values:
            raise KeyError(f"{self.section}{name}")
        return self.values.get(name, default)

    def _problem(self, name: str) -> None:
        text = json.dumps(self.values[name]) if name in self.values else "nothing"
        text = repr(self.values[name]) if isinstance(self.values.get(name), str | bool) else text
        self.refuse(f"{name}={text if len(text) <= 80 else text[:77] + '...'}")


def generation(values: dict) -> int:
    """4 or 5: of the transformers that wrote a config.json; 5 where it does not say.

    4 always wrote rope_theta and knew no rope_parameters: a file that has only these is not 4's.
    """
    written = str(values.get("transformers_version") or "").split(".")[0]
    text = values["text_config"] if isinstance(values.get("text_config"), dict) else values
    by_5 = "rope_parameters" in text and "rope_theta" not in text
    return 4 if written.isdigit() and int(written) < 5 and not by_5 else 5


@dataclasses.dataclass(frozen=True)
class Rope:
    theta: float
    sections: tuple[int, ...] | None  # as written


def rope(fields: Fields, vl: bool = False) -> Rope:
    """Rotary settings of a text section (`vl`: of a Qwen3-VL); a problem for all but plain ones."""
    read = {4: _rope_4(fields.values), 5: _rope_5(fields.values)}
    defaults = VL_THETA if vl else {4: THETA, 5: THETA}
    thetas = {g: defaults[g] if theta is REQUIRED else theta for g, (_, theta, _) in read.items()}
    name, _, params = read[fields.generation]
    mine = thetas[fields.generation]
    if isinstance(mine, bool) or not isinstance(mine, int | float) or not 0 < mine < math.inf:
        fields.refuse(f"rope_theta={mine!r}")
        mine = THETA
    kinds = {g: _kind(g, params, vl) for g, (_, _, params) in read.items()}
    kind = kinds[fields.generation]
    nested = [key for key, value in params.items() if isinstance(value, dict)]
    if nested or kind != "default":
        fields.refuse(f"{name}.{nested[0] + '=' if nested else f'rope_type={kind!r}'}")
    else:
        fields.differ("rope_type", kind, kinds[9 - fields.generation])
    if fields.generation == 4 or {"rope_theta", "rope_scaling"} & fields.values.keys():
        fields.differ("rope_theta", float(mine), thetas[9 - fields.generation])
    sections = params.get("mrope_section")
    if sections is not None and (
        not isinstance(sections, list)
        or len(sections) != 3
        or any(type(x) is not int or x < 0 for x in sections)
    ):
        fields.refuse(f"{name}.mrope_section={sections!r}")
        sections = None
    return Rope(float(mine), None if sections is None else tuple(sections))


def _rope_5(values: dict) -> tuple[str, Any, dict]:
    """`rope_scaling` before `rope_parameters`; a theta inside before one beside."""
    name = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    params = values.get(name) or {}
    params = params if isinstance(params, dict) else {"rope_type": params}
    return name, params.get("rope_theta", values.get("rope_theta", REQUIRED)), params


def _rope_4(values: dict) -> tuple[str, Any, dict]:
    """`rope_parameters` and a theta inside `rope_scaling` are unknown to it."""
    params = values.get("rope_scaling") or {}
    params = params if isinstance(params, dict) else {"rope_type": params}
    return "rope_scaling", values.get("rope_theta", REQUIRED), params


def _kind(generation: int, params: dict, vl: bool) -> Any:
    """4.57 knows the older name `type` in every decoder but Qwen3-VL's."""
    old = "default" if generation == 4 and vl else params.get("type", "default")
    return params.get("rope_type", old)


def sections(written: tuple[int, ...] | None, half: int) -> tuple[int, int, int]:
    """Numbers of the `half` rotary pairs that are rotated by time, height and width.

    The pairs 1, 4, 7, ... below 3 x height turn by height, 2, 5, 8, ... below 3 x width by width and all
    others by time, whatever the first number says: so transformers reads the three numbers.
    """
    _, height, width = written or (24, 20, 20)
    height, width = len(range(1, min(3 * height, half), 3)), len(range(2, min(3 * width, half), 3))
    return half - height - width, height, width


def check_layers(fields: Fields, layers: int) -> None:
    """A problem where a layer would see a sliding window only."""
    layer_types = fields.values.get("layer_types")
    if layer_types is not None:
        if (
            not isinstance(layer_types, list)
            or len(layer_types) != layers
            or set(layer_types) - {"full_attention"}
        ):
            odd = (
                sorted({str(x) for x in layer_types} - {"full_attention"})
                if isinstance(layer_types, list)
                else layer_types
            )
            fields.refuse(
                f"layer_types={odd or f'{len(layer_types)} of them'} for num_hidden_layers={layers}"
            )
        return
    first = fields.whole("max_window_layers", 28, low=0)
    if (
        fields.truth("use_sliding_window", False)
        and fields.values.get("sliding_window", 4096)
        and first < layers
    ):
        fields.refuse("use_sliding_window=True")
