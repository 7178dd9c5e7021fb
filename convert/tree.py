"""The arrays of native checkpoints by kind, as docs/reference/checkpoints.md lists them.

    python -m convert.tree [--model=tempo-6b]

Prints a table: path, shape, and the Hugging Face tensors that an array is made of.
"""

import re
import sys
from typing import Any

from convert import mapping
from tempo_jax.models.config import KINDS
from tempo_jax.models.presets import PRESETS
from tempo_jax.utils import command_line

MADE_OF = {
    "copy": "as it is", "transpose": "transposed", "patch": "reshaped to a matrix, transposed",
    "first": "without its first axis",
}  # fmt: skip


def rows(kind: str, config: Any) -> list[tuple[str, str, str, str]]:
    """(path, shape, Hugging Face name, how it is stored) of every array; `{layer}` is the first axis."""
    out = []
    for tensor in mapping.tensors(kind, config):
        name = (
            re.sub(r"\.0\.(?!vlm|compression)", ".{layer}.", tensor.hf[0], count=1)
            if tensor.stacked
            else tensor.hf[0]
        )
        derivation = MADE_OF[tensor.transform] + (", layers stacked" if tensor.stacked else "")
        out.append((tensor.native, " x ".join(map(str, tensor.shape)), name, derivation))
    if kind == "tempo":
        width = str(config.compressor.text.hidden_size)
        out.append((mapping.DIRECTION, width, "base model's head, row Yes minus row No", "float32 always"))
    return out


def table(kind: str, config: Any) -> str:
    """The rows as Markdown."""
    lines = ["| array | shape | Hugging Face tensor | stored |", "|---|---|---|---|"]
    lines += [
        f"| `{path}` | {shape} | `{name}` | {derivation} |"
        for path, shape, name, derivation in rows(kind, config)
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = command_line.Parser(prog="convert.tree", description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=tuple(PRESETS), default="tempo-6b", help="(tempo-6b)")
    args = parser.parse_args(argv)

    def command() -> int:
        config = PRESETS[args.model]
        print(table(next(kind for kind, of in KINDS.items() if isinstance(config, of)), config), end="")
        return 0

    return command_line.run(parser.prog, command)


if __name__ == "__main__":
    sys.exit(main())
