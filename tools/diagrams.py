"""Draws the diagrams of the docs into docs/images.

python tools/diagrams.py                (part of make docs)
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where this runs as a script

from tools.svg import COLORS, Canvas

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
LIGHT = ("#dbe6f1", "#fbe6d2", "#deeeec", "#f5dcdb", "#ecdfe9", "#deebd9")


def main() -> int:
    """Writes all diagrams."""
    for name, draw in DIAGRAMS.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")
    return 0


def data_flow() -> str:
    """Draws the path from frames to the answer."""
    canvas = Canvas(
        920, 300, "From frames to the answer: segments, compressor, token allocation, language model"
    )
    for index in range(4):
        canvas.box(20, 30 + index * 46, 90, 34, f"segment {index + 1}", LIGHT[0])
    canvas.text(65, 236, "8 frames each", 12)
    canvas.box(160, 30, 110, 172, "vision tower\n(per segment)", LIGHT[1])
    canvas.box(320, 30, 130, 172, "compressor\n[video | question |\nmemory tokens]", LIGHT[2])
    canvas.box(320, 240, 130, 34, "question", LIGHT[3])
    canvas.arrow((385, 240), (385, 204))
    for index in range(4):
        y = 47 + index * 46
        canvas.arrow((110, y), (158, y))
        canvas.arrow((270, y), (318, y))
        canvas.arrow((450, y), (498, y))
    canvas.text(545, 22, "kept tokens", 12)
    for index, kept in enumerate((4, 60, 128, 4)):
        y = 34 + index * 46
        canvas.bar(500, y, 90, 26, "#eeeeee")
        canvas.bar(500, y, 90 * kept / 128, 26, COLORS[2])
        canvas.text(545, y + 18, f"{kept} of 128", 12)
        canvas.arrow((592, y + 13), (648, y + 13))
    canvas.text(545, 236, "allocation: relevance\nand budget decide", 12)
    canvas.box(650, 30, 120, 172, "projector,\ntime tags,\npacking", LIGHT[4])
    canvas.arrow((770, 116), (798, 116))
    canvas.box(800, 30, 100, 172, "LLM:\nprefill,\ndecode", LIGHT[5])
    canvas.arrow((450, 257), (850, 257), (850, 204))
    canvas.text(850, 22, "answer", 12)
    return canvas.render()


def batch_layout() -> str:
    """Draws how samples fill a global batch."""
    canvas = Canvas(900, 360, "A global batch: shards side by side, micro-batches one after the other")
    canvas.text(20, 22, "One micro-batch of one shard", 14, "start")
    canvas.text(
        20, 52, "segment buffer: batch.pool segments of batch.row_length compressor tokens", 12, "start"
    )
    owners = (0, 0, 0, 1, 1, 2, 2, 2, None, None)
    for index, owner in enumerate(owners):
        color = "#eeeeee" if owner is None else LIGHT[owner]
        canvas.box(20 + index * 60, 62, 54, 30, "padding" if owner is None else f"s{index + 1}", color)
    canvas.text(
        20,
        122,
        "LLM sequences: batch.conversations rows of batch.length tokens, packed; "
        "attention stays within an example",
        12,
        "start",
    )
    for row, parts in enumerate(
        (
            ((0, 260, "example A: tags, memory tokens, text"), (1, 190, "example B"), (None, 144, "padding")),
            ((2, 330, "example C"), (None, 264, "padding")),
        )
    ):
        x = 20
        for owner, width, label in parts:
            canvas.box(x, 132 + row * 38, width, 30, label, "#eeeeee" if owner is None else LIGHT[owner])
            x += width
    canvas.text(20, 240, "One optimizer step", 14, "start")
    for step in range(3):
        for shard in range(4):
            canvas.box(
                20 + shard * 120,
                252 + step * 32,
                112,
                26,
                f"shard {shard + 1}, micro {step + 1}",
                LIGHT[step + 3],
            )
    canvas.text(
        520,
        284,
        "batch.shards side by side, on different devices;\n"
        "batch.micro_batches one after the other,\ngradients summed",
        12,
        "start",
    )
    return canvas.render()


def mesh() -> str:
    """Draws the mesh axes on eight devices."""
    canvas = Canvas(900, 330, "Mesh axes data, fsdp and tensor on eight devices")
    canvas.text(20, 22, "mesh data=2, fsdp=2, tensor=2", 14, "start")
    for data in range(2):
        canvas.box(20 + data * 300, 50, 270, 230, color="#fafafa")
        canvas.text(155 + data * 300, 70, f"data={data}: a full replica of the weights", 12)
        for fsdp in range(2):
            for tensor in range(2):
                label = f"fsdp={fsdp}\ntensor={tensor}"
                canvas.box(
                    40 + data * 300 + tensor * 118, 88 + fsdp * 92, 108, 78, label, LIGHT[fsdp * 2 + tensor]
                )
    canvas.arrow((292, 165), (318, 165))
    canvas.arrow((318, 175), (292, 175))
    canvas.text(305, 300, "data: all-reduce of gradients, once per step", 12)
    canvas.text(
        620,
        100,
        "rows (fsdp): the batch, and 1/2 of weights,\n"
        "gradients and optimizer state each;\nall-gather per layer, reduce-scatter",
        12,
        "start",
    )
    canvas.text(
        620,
        200,
        "columns (tensor): heads, MLP width and\n"
        "vocabulary of the LLM; segments of vision\ntower and compressor;\nall-reduce in every LLM layer",
        12,
        "start",
    )
    return canvas.render()


DIAGRAMS = {"data_flow.svg": data_flow, "batch_layout.svg": batch_layout, "mesh.svg": mesh}

if __name__ == "__main__":
    sys.exit(main())
