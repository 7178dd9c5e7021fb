"""Small sources of training samples, held in memory, whose pixels say which sample they are."""

import dataclasses

import numpy as np

from tempo_jax.data.samples import Sample

SIZE = 32  # pixels: one visual token per slice


def sample(value, segments=1, size=SIZE, question="What?", answer="Yes.") -> Sample:
    """A video of whole segments whose pixels all have one value."""
    conversation = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return Sample(np.full((8 * segments, size, size, 3), value, np.uint8), 2.0, conversation)


@dataclasses.dataclass(frozen=True)
class DamagedFrames:
    """As encoded frames are that turn out to be damaged when they are decoded."""

    shape = (8, SIZE, SIZE, 3)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        raise OSError("damaged image")


class Numbered:
    """`count` videos of 1 to 4 segments; pixels of sample i have value first + i."""

    def __init__(self, count=20, first=0, size=SIZE, most=4):
        self.count, self.first, self.size, self.most = count, first, size, most

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return sample(self.first + index, 1 + index * 7 % self.most, self.size)


class Mixed(Numbered):
    """Two sizes in turn."""

    def __getitem__(self, index):
        return sample(self.first + index, 1, SIZE if index % 2 else 64)


class Faulty(Numbered):
    """One in six is good: the others raise, are missing, too long, of another size or damaged."""

    def __getitem__(self, index):
        if index % 6 == 0:
            raise OSError("no such file")
        damaged = dataclasses.replace(sample(0), frames=DamagedFrames())
        return (None, sample(0, segments=9), sample(0, size=64), damaged, sample(self.first + index))[
            index % 6 - 1
        ]


class Hopeless(Numbered):
    def __getitem__(self, index):
        raise OSError("no such file")


class Unlucky(Numbered):
    """Half of them bad, each for a reason of its own."""

    def __getitem__(self, index):
        if index % 2:
            raise OSError(f"no such file: {index}")
        return sample(index)


SOURCES = {cls.__name__: cls for cls in (Numbered, Mixed, Faulty, Hopeless, Unlucky)}
