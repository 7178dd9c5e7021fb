"""The service: queue, batches, cancellation, open videos; and decoding in a child process."""

import contextlib
import functools
import multiprocessing
import os
import threading
import time

import numpy as np
import pytest
from PIL import Image

from tempo_jax.errors import TempoError
from tempo_jax.models.presets import DEMO
from tempo_jax.serve import decoder_child, device
from tempo_jax.serve.decoder import Cancelled, decoding
from tempo_jax.serve.decoder_child import Request
from tempo_jax.serve.device import Device, Turn
from tempo_jax.serve.errors import QueueFull, ShuttingDown
from tempo_jax.serve.events import Queued
from tempo_jax.serve.limits import Limits
from tempo_jax.serve.service import Completed, Failed, Progress, TextDelta
from tempo_jax.serve.store import FrameSampling
from tempo_jax.video import open_video
from tempo_jax.video.synthetic import SyntheticVideo, write_video
from tests.serving import FakeClip, FakeModel, Heard, make_videos, service_of, wait_until

DEFAULTS = {"fps": 2.0, "min_frames": 4, "max_frames": 1024}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_videos(tmp_path_factory.mktemp("videos"), 3)


def test_an_answer_and_what_is_told_on_the_way(videos):
    with service_of() as service:
        heard = Heard(service, videos[0])
        done = heard.end()
    assert isinstance(done, Completed) and done.answer.text == "v0.mp4 says What?"
    assert "".join(e.text for e in heard.events if isinstance(e, TextDelta)) == done.answer.text
    assert Progress("decoding", 16, 16) in heard.events
    assert len(done.thumbnails) == 2 and all(jpeg[:2] == b"\xff\xd8" for jpeg in done.thumbnails)


def test_a_second_question_reuses_the_open_video(videos):
    with service_of() as service:
        assert not Heard(service, videos[0]).end().reused
        assert Heard(service, videos[0], "Again?").end().reused
        assert not Heard(service, videos[0], frames=FrameSampling(max_frames=8)).end().reused
        assert service.model.opened == ["v0.mp4", "v0.mp4"]


def test_a_changed_file_is_opened_again(tmp_path):
    (path,) = make_videos(tmp_path, 1)
    with service_of() as service:
        Heard(service, path).end()
        write_video(path, SyntheticVideo(seconds=4, fps=4, height=48, width=64))
        done = Heard(service, path).end()
    assert not done.reused and done.answer.usage["frames"] == 8


def test_the_least_recently_used_video_goes_first(videos):
    with service_of(open_videos=2) as service:
        for index in (0, 1, 0, 2, 0, 1):
            Heard(service, videos[index]).end()
        assert service.model.opened == ["v0.mp4", "v1.mp4", "v2.mp4", "v1.mp4"]
        assert len(service.store) == 2


@pytest.mark.parametrize("held,left", [(1000, 2), (2000, 1), (3001, 0)])
def test_open_videos_stay_within_their_bytes(videos, held, left):
    with service_of(FakeModel(held_bytes=held), open_bytes=3000) as service:
        for video in videos[:2]:
            Heard(service, video).end()
        assert len(service.store) == left and service.store.held_bytes == left * held


def test_questions_about_one_video_are_answered_together(videos):
    with service_of(batch=3) as service:
        slow = Heard(service, videos[0], "slow")
        service.model.reached.wait(120)
        asked = [Heard(service, videos[i], f"q{n}") for n, i in enumerate((1, 2, 1, 1, 1))]
        service.model.go.set()
        answers = [heard.end().answer.text for heard in asked]
        slow.end()
    assert answers == [f"v{i}.mp4 says q{n}" for n, i in enumerate((1, 2, 1, 1, 1))]
    batches = service.model.batches
    assert batches[0] == ["slow"] and sorted(batches[1:]) == [["q0", "q2", "q3"], ["q1"], ["q4"]]


def test_a_full_queue_says_when_to_come_back(videos):
    with service_of(waiting=2) as service:
        Heard(service, videos[0], "slow")
        service.model.reached.wait(120)
        kept = [Heard(service, videos[1]) for _ in range(2)]
        with pytest.raises(QueueFull) as busy:
            Heard(service, videos[1])
        assert 1 <= busy.value.retry_after <= 600
        service.cancel(kept[0].job)  # frees its place at once
        kept.append(Heard(service, videos[1]))
        service.model.go.set()
        assert all(isinstance(heard.end(), Completed) for heard in kept[1:])


def test_a_cancelled_answer_stops(videos):
    with service_of() as service:
        heard = Heard(service, videos[0], "slow")
        service.model.reached.wait(120)
        service.cancel(heard.job)
        wait_until(lambda: service.model.stopped == ["slow"])
        assert isinstance(Heard(service, videos[0], "next").end(), Completed)


def test_a_cancelled_opening_stops(videos, monkeypatch):
    with service_of() as service:
        held = FakeModel.open

        def slowly(self, clip, progress):
            self.reached.set()
            while not self.go.wait(0.01):
                progress("decoding", 0, 1)
            return held(self, clip, progress)

        monkeypatch.setattr(FakeModel, "open", slowly)
        heard = Heard(service, videos[0])
        service.model.reached.wait(120)
        service.cancel(heard.job)
        wait_until(lambda: service.running == 0)
        assert len(service.store) == 0 and not any(isinstance(e, Failed) for e in heard.events)


def test_a_mistake_and_a_bug_concern_one_question(videos, caplog):
    with service_of() as service:
        slow = Heard(service, videos[0], "slow")
        service.model.reached.wait(120)
        heard = [Heard(service, videos[0], question) for question in ("mistake", "bug", "fine")]
        service.model.go.set()
        slow.end()
        ends = [h.end() for h in heard]
    assert isinstance(ends[0].error, TempoError) and isinstance(ends[1].error, ZeroDivisionError)
    assert isinstance(ends[2], Completed)
    assert "ZeroDivisionError" in caplog.text


def test_closing_tells_everyone(videos):
    with service_of() as service:
        running = Heard(service, videos[0], "slow")
        service.model.reached.wait(120)
        waiting = Heard(service, videos[1])
        service.close(grace=0.05)
        assert isinstance(waiting.end().error, ShuttingDown) and isinstance(running.end().error, ShuttingDown)
        with pytest.raises(ShuttingDown):
            Heard(service, videos[0])


# Decoding


def request(path, name="a name", frames=DEFAULTS, **limits):
    return Request(str(path), name, frames, DEMO.video, Limits(**limits))


def test_frames_of_a_child_are_those_of_this_process(videos):
    source = open_video(videos[0], **DEFAULTS)
    with decoding(request(videos[0])) as child:
        np.testing.assert_array_equal(np.concatenate([*child.chunks(8)]), np.concatenate([*source.chunks(8)]))
        np.testing.assert_array_equal(child.indices, source.indices)
        for field in ("kind", "num_frames", "real_fps", "duration_seconds", "native_fps", "warnings"):
            assert getattr(child, field) == getattr(source, field)


def test_warnings_of_decoding_arrive(tmp_path):
    path = tmp_path / "cut.mp4"
    write_video(path, SyntheticVideo(seconds=8, fps=4, height=48, width=64), faststart=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    with decoding(request(path, "my film")) as source:
        for _ in source.chunks(8):
            pass
        assert "missing" in source.warnings[0]


def refusal(*arguments, **limits):
    with pytest.raises(TempoError) as error, decoding(request(*arguments, **limits)) as source:
        for _ in source.chunks(8):
            pass
    sentence = str(error.value)
    assert "a name" in sentence and "\n" not in sentence and "/" not in sentence, sentence
    return sentence


@pytest.mark.parametrize(
    "limits,said",
    [
        ({"video_seconds": 7.0}, "lasts 8 seconds"),
        ({"frame_pixels": 48 * 64 - 1}, "64x48 pixels"),
        ({"decode_seconds": 0.0}, "took longer"),
    ],
)
def test_videos_beyond_the_limits(videos, limits, said):
    assert said in refusal(videos[0], **limits).replace(videos[0].name, "a name")


def test_images_beyond_the_limits(tmp_path):
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    assert "100x50 pixels" in refusal(tmp_path / "a.png", image_pixels=4999)


def test_a_decoder_that_takes_too_much_memory(tmp_path):
    write_video(tmp_path / "big.mp4", SyntheticVideo(seconds=1, fps=4, height=1080, width=1920))
    refusal(tmp_path / "big.mp4", decode_bytes=4 << 20)


@pytest.mark.parametrize("crash", [lambda: os._exit(0), lambda: os.kill(os.getpid(), 9)])
def test_a_decoder_that_dies(videos, crash, monkeypatch):
    context = multiprocessing.get_context("fork")  # so that the child runs what is patched
    monkeypatch.setattr(decoder_child, "main", lambda pipe, request: crash())
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: context)
    assert "crashed" in refusal(videos[0])


@pytest.mark.parametrize(
    "name,content",
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:8,\n{path}\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "ffconcat version 1.0\nfile v0.mp4\n"),
        ("list.mpd", "<?xml version='1.0'?><MPD><Period><BaseURL>{path}</BaseURL></Period></MPD>"),
        ("text.mp4", "hello"),
        ("a.npy", "no array"),
    ],
)
def test_files_that_name_others_are_refused(videos, name, content):
    path = videos[0].parent / name
    path.write_text(content.format(path=videos[0]))
    refusal(path)


def test_a_cancelled_decoding_ends(videos):
    with pytest.raises(Cancelled), decoding(request(videos[0]), cancelled=lambda: True):
        pass


# Openings between answers


def test_questions_on_open_videos_are_answered_between_slices(videos, monkeypatch):
    held, answered = FakeModel.open, []

    def opening(self, clip, progress):
        for number in range(6 if clip.source.name == "v1.mp4" else 0):
            asked = Heard(service, videos[0], f"q{number}")
            wait_until(lambda: service._device._answers)  # it waits for this slice
            progress("decoding", number, 6)
            answered.append(bool(asked.events) and asked.end().answer.text)
        held(self, clip, progress)

    monkeypatch.setattr(FakeModel, "open", opening)
    with service_of() as service:
        Heard(service, videos[0]).end()
        assert isinstance(Heard(service, videos[1]).end(), Completed)
    assert answered == [f"v0.mp4 says q{number}" for number in range(6)]


def test_a_file_that_stalls_lends_its_place(videos, monkeypatch):
    """Two of them take both places; a third video is opened all the same, and an open one answered."""
    from tempo_jax.serve import opening
    from tempo_jax.serve import service as services

    monkeypatch.setattr(services, "STALLED_SECONDS", 0.2)
    monkeypatch.setattr(services, "CHECK_SECONDS", 0.05)
    real, stuck = opening.decoding, threading.Event()

    @contextlib.contextmanager
    def decoding_of(request, cancelled, on_frame=None):
        if "stuck" in request.name:
            while not stuck.wait(0.01):
                if cancelled():
                    raise Cancelled
        with real(request, cancelled, on_frame) as source:
            yield source

    monkeypatch.setattr(opening, "decoding", decoding_of)
    with service_of() as service:
        for name in ("stuck-1.mp4", "stuck-2.mp4"):
            (videos[0].parent / name).write_bytes(videos[0].read_bytes())
        held = [Heard(service, videos[0].parent / f"stuck-{n}.mp4") for n in (1, 2)]
        assert isinstance(Heard(service, videos[1]).end(), Completed)
        assert isinstance(Heard(service, videos[1], "again").end(), Completed)
        assert not any(isinstance(event, Completed) for heard in held for event in heard.events)
        service.cancel(held[0].job)
        stuck.set()
        assert isinstance(held[1].end(), Completed)


def test_the_queue_is_fair_to_clients(videos):
    with service_of(waiting=3, batch=1) as service:
        slow = Heard(service, videos[0], "slow")
        service.model.reached.wait(120)
        crowd = [Heard(service, videos[0], f"many{n}", client="crowd") for n in range(3)]
        with pytest.raises(QueueFull):
            Heard(service, videos[0], "one more", client="crowd")
        late = Heard(service, videos[0], "late", client="other")  # who has none waiting has a place
        service.model.go.set()
        for heard in (slow, late, *crowd):
            heard.end()
    assert service.model.batches == [["slow"], ["many0"], ["late"], ["many1"], ["many2"]]


def test_short_answers_come_between_the_slices_of_a_long_one(videos, monkeypatch):
    """About the same video and another one, of the same client and another one; nothing else starts while a
    question is being read."""
    monkeypatch.setattr(device, "QUANTUM_SECONDS", 0.01)
    with service_of() as service:
        long = Heard(service, videos[0], "long")
        service.model.reached.wait(120)
        for number, (video, client) in enumerate([(0, ""), (0, "other"), (1, ""), (1, "other")]):
            assert isinstance(Heard(service, videos[video], f"q{number}", client=client).end(), Completed)
        assert not any(isinstance(event, Completed) for event in long.events)
        service.model.go.set()
        assert long.end().answer.text == "v0.mp4 says long"


def test_a_long_answer_goes_on_among_short_ones_without_a_pause(monkeypatch):
    monkeypatch.setattr(device, "QUANTUM_SECONDS", 0.01)
    monkeypatch.setattr(device, "PATIENCE_SECONDS", 0.02)
    shared, over, slices = Device(), threading.Event(), 0

    def short():
        while not over.is_set():
            with shared.answering():
                time.sleep(0.005)

    threads = [threading.Thread(target=short) for _ in range(3)]  # two of them always wait
    with shared.answering() as turn:
        for thread in threads:
            thread.start()
        while slices < 20:
            time.sleep(0.005)
            turn.give()
            turn.take(lambda: None)
            slices += 1
        over.set()
    for thread in threads:
        thread.join()


def test_one_client_takes_half_of_the_places(videos, monkeypatch):
    monkeypatch.setattr(device, "QUANTUM_SECONDS", 0.01)
    with service_of(batch=1, waiting=9) as service:
        long = [Heard(service, videos[number], "long", client="crowd") for number in range(3)]
        service.model.reached.wait(120)
        assert isinstance(Heard(service, videos[0], "short", client="other").end(), Completed)
        assert service.model.batches == [["long"], ["short"]]
        service.model.go.set()
        for heard in long:
            heard.end()


def test_a_cancelled_long_answer_frees_its_place(videos, monkeypatch):
    monkeypatch.setattr(device, "QUANTUM_SECONDS", 0.01)
    with service_of() as service:
        long = Heard(service, videos[0], "long")
        service.model.reached.wait(120)
        slow = Heard(service, videos[1], "slow")  # has the device; the long one waits for it
        wait_until(lambda: slow.events and isinstance(slow.events[-1], TextDelta))
        service.cancel(long.job)
        wait_until(lambda: service.running == 1)
        service.model.go.set()
        assert isinstance(slow.end(), Completed) and not any(
            isinstance(e, Completed | Failed) for e in long.events
        )


def test_of_answers_written_together_one_may_go(videos):
    """It must not end the others, whose loop it is too."""
    with service_of() as service:
        Heard(service, videos[0]).end()
        slow = Heard(service, videos[1], "slow")
        service.model.reached.wait(120)
        both = [Heard(service, videos[0], f"q{number}") for number in range(2)]
        group = None

        def answer(self, turns):
            nonlocal group
            group = [turn.question for turn in turns]
            service.cancel(both[0].job)
            for turn in turns:
                turn.progress("generating", 1, 2)
            FakeClip._one(self, turns[1])

        both[0].job.opened.clip.answer = functools.partial(answer, both[0].job.opened.clip)
        service.model.go.set()
        assert isinstance(both[1].end(), Completed) and group == ["q0", "q1"]
        slow.end()


def test_an_opened_video_behind_an_answer_has_a_place(videos):
    with service_of(batch=1) as service:
        Heard(service, videos[0]).end()
        slow = Heard(service, videos[0], "slow")
        service.model.reached.wait(120)
        first, second = Heard(service, videos[1], "new"), Heard(service, videos[2], "later")
        service.model.go.set()
        for heard in (slow, first, second):
            heard.end()
    for heard in (first, second):
        kinds = [type(event).__name__ for event in heard.events]
        assert "Queued" in kinds[kinds.index("Ready") :], kinds


def test_places_are_told(videos):
    with service_of(batch=1) as service:
        slow = Heard(service, videos[0], "slow")
        service.model.reached.wait(120)
        heard = [Heard(service, videos[0], f"q{n}") for n in range(2)]
        wait_until(lambda: heard[1].events)
        service.model.go.set()
        for one in (slow, *heard):
            one.end()
    places = [event.place for event in heard[1].events if isinstance(event, Queued)]
    assert places == [2, 1]


def test_openings_get_their_share_of_a_busy_device():
    """Answers without a pause: after 20 % of the time a slice comes first."""
    device = Device()
    order, over = [], threading.Event()
    turn = Turn(device, lambda: False)

    def opening():
        for _ in range(3):
            turn.take(lambda: None)
            order.append("slice")
            time.sleep(0.02)
            turn.give()
        over.set()

    def answers():
        while not over.is_set():
            with device.answering():
                order.append("answer")
                time.sleep(0.02)

    threads = [threading.Thread(target=answers) for _ in range(2)] + [threading.Thread(target=opening)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order.count("slice") == 3 and order.count("answer") >= 5


def test_what_is_closed_is_let_go(videos):
    with service_of() as service:
        heard = Heard(service, videos[0])
        heard.end()
        service.forget(heard.job.video, heard.job.frames)
        assert len(service.store) == 0
