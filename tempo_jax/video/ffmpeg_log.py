"""Errors that FFmpeg's decoders only write into their log, counted for the file that is being read.

Decoders of H.264 and MPEG flag the frames that they had to patch; those of HEVC, MJPEG, FFV1 and others
patch and log. PyAV hands the log to Python's `logging`; a handler counts it while exactly one reader is
at work (the log does not say which file it is about), and nothing of it is printed.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator

import av

# Decoders that flag every frame they patch; what they log besides is often harmless.
FLAGGED = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4", "h263", "flv", "vc1", "wmv3"})


SETTLING_FRAMES = 24  # after a seek, whose leading pictures lack what they refer to: decoders log that


class Counter:
    """Counts errors that FFmpeg logged while its reader was decoding.

    What is logged from a seek until SETTLING_FRAMES frames have come is no fault of the file's.
    """

    def __init__(self) -> None:
        self._logged = self._accepted = 0
        self._frames = SETTLING_FRAMES

    def error(self) -> None:
        """One more error was logged."""
        self._logged += 1

    def frame(self) -> None:
        """A frame was decoded."""
        self._settle()
        self._frames += 1

    def seek(self) -> None:
        """The reader has gone elsewhere."""
        self._settle()
        self._frames = 0

    def errors(self) -> int:
        """The errors that the file causes."""
        self._settle()
        return self._accepted

    def _settle(self) -> None:
        if self._frames >= SETTLING_FRAMES:
            self._accepted = self._logged
        self._logged = self._accepted


class _Handler(logging.Handler):
    """Counts for the one reader at work."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.readers: list[Counter] = []
        self.guard = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        decoder = record.name.rpartition(".")[2]
        if len(self.readers) == 1 and decoder not in FLAGGED and not decoder.startswith("sw"):
            self.readers[0].error()


_handler = _Handler()


@contextlib.contextmanager
def counting() -> Iterator[Counter]:
    """Counts errors until the block ends; several blocks at a time count nothing.

    Before the block ends the decoder must be idle (see `decode.FrameReader.close`): a decoder's thread
    that logs waits for Python's lock, which the thread that frees the decoder holds.
    """
    counter = Counter()
    with _handler.guard:
        if not _handler.readers:
            logger = logging.getLogger("libav")
            if _handler not in logger.handlers:
                logger.addHandler(_handler)
                logger.propagate = False  # PyAV prints nothing by default, and neither do we
            av.logging.set_level(av.logging.ERROR)
            av.logging.set_skip_repeated(False)  # or a fault is reported for the first of several files only
        _handler.readers.append(counter)
    try:
        yield counter
    finally:
        with _handler.guard:
            _handler.readers.remove(counter)
            if not _handler.readers:
                av.logging.set_level(None)
