"""Videos decoded ahead in worker processes: the same frames, in order; broken ones harm nobody."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from tempo_jax.errors import TempoError
from tempo_jax.evaluation import decode_workers
from tempo_jax.models.config import VideoConfig
from tempo_jax.video import open_video
from tempo_jax.video.synthetic import SyntheticVideo, write_video
from tests.benchmark_copies import write_videos

ORDER = ("one", "cut", "two", "missing", "empty", "one")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder)
    return folder


def jobs(folder, names):
    sampling = decode_workers.FrameSampling(2.0, 8, 1024, VideoConfig())
    return [(folder / f"{name}.mp4", sampling) for name in names]


def frames(source, size=3):
    return np.concatenate(list(source.chunks(size)))


def read(found):
    """(frames, warnings) of a video, or its sentence."""
    if found.source is None:
        return found.error
    return frames(found.source), found.source.warnings


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_change_nothing(folder, workers):
    results = [
        read(found) for found in decode_workers.prefetch_videos(jobs(folder, ORDER), workers, 64 << 20)
    ]
    for name, result in zip(ORDER, results, strict=True):
        path = folder / f"{name}.mp4"
        if name in ("missing", "empty"):
            with pytest.raises(TempoError) as caught:
                open_video(path)
            assert result == str(caught.value)
            continue
        expected = open_video(path, min_frames=8)
        np.testing.assert_array_equal(result[0], frames(expected))
        assert result[1] == expected.warnings
    assert any("is cut short" in warning for warning in results[1][1])


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_not_read_is_passed_over(folder, workers):
    videos = decode_workers.prefetch_videos(jobs(folder, ("one", "two", "one")), workers, 1)
    found = [opened.source.name for opened in videos]
    assert found == ["one.mp4", "two.mp4", "one.mp4"]


def test_the_clock_counts_decoding_only(folder):
    (found,) = decode_workers.prefetch_videos(jobs(folder, ("one",)), 0, 0)
    for _ in found.source.chunks(1):
        time.sleep(0.1)
    assert 0 < found.decode_seconds < 0.5  # of 8 frames; 0.8 s were slept


class Gated:
    """A worker's pipe from which, once a video is open, nothing is taken until the worker is killed."""

    def __init__(self, pipe, killed):
        self.pipe, self.killed, self.opened = pipe, killed, False
        self.recv_bytes_into = pipe.recv_bytes_into

    def recv(self):
        assert not self.opened or self.killed.wait(60)
        self.opened = True
        return self.pipe.recv()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.pipe.close()


def test_the_death_of_a_decoder_is_one_videos_error(folder, monkeypatch):
    """Of the video that was being decoded; the next is decoded by another process."""
    hands, killed = [], threading.Event()
    start, receive = decode_workers._DecodeWorker._start, decode_workers._receive

    def watched(hand):
        start(hand)
        hands.append(hand)

    monkeypatch.setattr(decode_workers._DecodeWorker, "_start", watched)
    monkeypatch.setattr(decode_workers, "_receive", lambda pipe, *more: receive(Gated(pipe, killed), *more))
    results = []
    # No frame fits into a pipe (64 KiB), or all of them could be on the way already.
    write_video(folder / "large.mp4", SyntheticVideo(seconds=4, fps=4, height=192, width=256))
    for number, found in enumerate(
        decode_workers.prefetch_videos(jobs(folder, ("large", "two", "one")), 1, 2)
    ):
        if number == 0:
            os.kill(hands[0]._process.pid, signal.SIGKILL)
            hands[0]._process.join()
            killed.set()
            with pytest.raises(TempoError, match=r"The process that decoded large\.mp4 died"):
                frames(found.source)
        else:
            results.append(len(frames(found.source)))
    assert results == [8, 8] and len(hands) == 2


def test_a_video_that_kills_its_decoder_is_tried_twice(folder, monkeypatch):
    starts = []
    start = decode_workers._DecodeWorker._start

    def killed(hand):
        start(hand)
        starts.append(hand._done)
        if hand._done == 0:
            os.kill(hand._process.pid, signal.SIGKILL)

    monkeypatch.setattr(decode_workers._DecodeWorker, "_start", killed)
    first, second = (
        read(found) for found in decode_workers.prefetch_videos(jobs(folder, ("one", "two")), 1, 1 << 20)
    )
    assert first == "The process that decoded one.mp4 died: the file is damaged, or there was no memory left."
    assert len(second[0]) == 8 and starts == [0, 0, 1]
