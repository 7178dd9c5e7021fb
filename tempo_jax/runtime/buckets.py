"""Static shapes: every length a program is compiled for comes from here.

Inside a bucket the question, the number of frames and the budget may change and nothing compiles.
"""

ROW = 128  # compressor prompt rows and LLM text are padded to multiples of this
SEGMENTS = (8, 16, 32, 64, 128, 256)  # segments of a video, then multiples of the last
PREFILL = (256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 10240, 12288, 16384, 24576, 32768)
NEW_TOKENS = (64, 256, 1024)
TAG_TOKENS = 12  # a time tag: "<", digits, ".", digit, " seconds", ">"


def multiple(length: int, step: int) -> int:
    """The smallest multiple of `step` that is at least `length` (and at least one step)."""
    return max(1, -(-length // step)) * step


def bucket(length: int, sizes: tuple[int, ...]) -> int:
    """The smallest of `sizes` that holds `length`; beyond them, a multiple of the largest."""
    return next((size for size in sizes if size >= length), multiple(length, sizes[-1]))


def power_of_two(length: int) -> int:
    return 1 << (max(1, length) - 1).bit_length()
