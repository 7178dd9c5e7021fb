"""What sources with one sample for each reel have in common."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class PerReel:
    """`count` reels of a split, a sample from each; seconds: lengths of reels to choose from."""

    split: str = "train"
    count: int = 1000
    seconds: Sequence[float] = (64,)

    def __post_init__(self):
        object.__setattr__(self, "seconds", tuple(self.seconds))

    def __len__(self) -> int:
        return self.count
