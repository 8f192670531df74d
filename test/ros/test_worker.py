import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from sensor_msgs.msg import Image

from ovs_ros.ros.frames import Frame, FrameQueue
from ovs_ros.ros.worker import Worker
from ovs_ros.vocabulary.errors import VocabularyError

PATIENCE_S = 10


class Steps:
    """A pipeline of functions."""

    def __init__(self, process, failed, announce=lambda: None):
        self.process, self.failed, self.announce = process, failed, announce


def put(queue, encoding, camera=0):
    queue.put(camera, Frame(Image(encoding=encoding)))


def test_a_frame_that_fails_does_not_end_the_worker():
    done = threading.Event()
    failures = []

    def process(frame):
        if frame.image.encoding == "bad":
            raise RuntimeError("no such frame")
        done.set()

    def failed(error):
        failures.append(str(error))
        put(queue, "good")

    queue = FrameQueue()
    worker = Worker(queue, [Steps(process, failed)])
    worker.start()
    put(queue, "bad")
    assert done.wait(PATIENCE_S)
    worker.stop()
    assert failures == ["no such frame"]


def test_stopping_waits_for_the_frame_at_work_and_takes_no_other():
    started, go_on = threading.Event(), threading.Event()
    finished = []

    def process(frame):
        started.set()
        assert go_on.wait(PATIENCE_S)
        finished.append(frame.image.encoding)

    queue = FrameQueue()
    worker = Worker(queue, [Steps(process, finished.append)])
    worker.start()
    put(queue, "first")
    assert started.wait(PATIENCE_S)
    put(queue, "second")
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    go_on.set()
    stopper.join(PATIENCE_S)
    assert not stopper.is_alive()
    assert finished == ["first"]


def test_waking_announces_and_processes_nothing():
    seen = threading.Semaphore(0)
    got = []
    queue = FrameQueue(2)
    worker = Worker(queue, [Steps(got.append, got.append, seen.release) for _ in range(2)])
    worker.start()
    queue.wake()
    for _ in range(2):
        assert seen.acquire(timeout=PATIENCE_S)
    worker.stop()
    assert not got


def test_what_fails_in_one_camera_is_told_to_it_and_does_not_touch_the_others():
    done = threading.Semaphore(0)
    failures = {"announce": [], "process": [], "fine": []}

    def fail(*_):
        raise RuntimeError("no")

    queue = FrameQueue(3)
    worker = Worker(
        queue,
        [
            Steps(lambda _: done.release(), failures["announce"].append, fail),
            Steps(fail, lambda error: (failures["process"].append(error), done.release())),
            Steps(lambda _: done.release(), failures["fine"].append),
        ],
    )
    worker.start()
    for camera in range(3):
        put(queue, "rgb8", camera)
    for _ in range(3):
        assert done.acquire(timeout=PATIENCE_S)
    worker.stop()
    assert len(failures["announce"]) >= 1 and len(failures["process"]) == 1 and not failures["fine"]


class WatchedQueue(FrameQueue):
    """Tells how often it was woken."""

    def __init__(self):
        super().__init__()
        self.woken = threading.Semaphore(0)

    def wake(self):
        super().wake()
        self.woken.release()


@pytest.fixture
def busy():
    """A worker at work on a frame until `go_on`; `done` has what was done, in order."""
    busy = SimpleNamespace(started=threading.Event(), go_on=threading.Event(), done=[])

    def process(frame):
        busy.started.set()
        assert busy.go_on.wait(PATIENCE_S)
        busy.done.append(frame.image.encoding)

    busy.queue = WatchedQueue()
    busy.worker = Worker(busy.queue, [Steps(process, busy.done.append)])
    busy.worker.start()
    put(busy.queue, "first")
    assert busy.started.wait(PATIENCE_S)
    yield busy
    busy.go_on.set()
    busy.worker.stop()


def ask(busy, *jobs):
    """Ask for jobs from threads of their own: the futures of their answers."""
    threads = ThreadPoolExecutor(len(jobs))
    return [threads.submit(busy.worker.between_frames, job) for job in jobs]


def queued(busy, count):
    """Wait until so many jobs wait."""
    for _ in range(count):
        assert busy.queue.woken.acquire(timeout=PATIENCE_S)


def test_jobs_are_done_on_its_thread_one_after_a_frame(busy):
    def job():
        busy.done.append("job")
        put(busy.queue, "next")
        return threading.current_thread().name

    answers = ask(busy, job, job)
    queued(busy, 2)
    busy.go_on.set()
    assert [answer.result(PATIENCE_S) for answer in answers] == ["segmentation"] * 2
    assert busy.done[:4] == ["first", "job", "next", "job"]


def test_a_job_needs_no_frame_and_what_it_raises_goes_to_who_asked(busy):
    busy.go_on.set()

    def fail():
        raise RuntimeError("no such image")

    assert busy.worker.between_frames(lambda: 7) == 7
    with pytest.raises(RuntimeError, match="no such image"):
        busy.worker.between_frames(fail)
    assert busy.worker.between_frames(lambda: 8) == 8


def test_who_waits_too_long_is_told_and_the_job_is_not_done(busy):
    with pytest.raises(VocabularyError, match="within 0.01 s.*ask again"):
        busy.worker.between_frames(lambda: busy.done.append("late"), timeout=0.01)
    busy.go_on.set()
    assert busy.worker.between_frames(lambda: 7) == 7
    assert "late" not in busy.done


def test_stopping_refuses_the_jobs_that_wait_and_those_that_come(busy):
    (answer,) = ask(busy, lambda: busy.done.append("job"))
    queued(busy, 1)
    busy.queue.close()
    busy.go_on.set()
    busy.worker.stop()
    with pytest.raises(VocabularyError, match="an active node"):
        answer.result(PATIENCE_S)
    with pytest.raises(VocabularyError, match="an active node"):
        busy.worker.between_frames(lambda: busy.done.append("job"))
    assert busy.done == ["first"]
