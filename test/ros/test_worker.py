import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from sensor_msgs.msg import Image

from ovs_ros.ros.inputs import Inputs
from ovs_ros.ros.worker import Worker
from ovs_ros.vocabulary.errors import VocabularyError

PATIENCE_S = 10


def test_a_frame_that_fails_does_not_end_the_worker():
    done = threading.Event()
    failures = []

    def process(frame):
        if frame.image.encoding == "bad":
            raise RuntimeError("no such frame")
        done.set()

    def failed(error):
        failures.append(str(error))
        inputs.put_image(Image(encoding="good"))

    inputs = Inputs(0.02)
    worker = Worker(inputs, process, failed)
    worker.start()
    inputs.put_image(Image(encoding="bad"))
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

    inputs = Inputs(0.02)
    worker = Worker(inputs, process, finished.append)
    worker.start()
    inputs.put_image(Image(encoding="first"))
    assert started.wait(PATIENCE_S)
    inputs.put_image(Image(encoding="second"))
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    go_on.set()
    stopper.join(PATIENCE_S)
    assert not stopper.is_alive()
    assert finished == ["first"]


def test_waking_processes_nothing():
    seen = threading.Event()
    got = []

    def process(frame):
        got.append(frame)
        seen.set()

    inputs = Inputs(0.02)
    worker = Worker(inputs, process, got.append)
    worker.start()
    inputs.wake()
    assert seen.wait(PATIENCE_S)
    worker.stop()
    assert got == [None]


class WatchedInputs(Inputs):
    """Tells how often it was woken."""

    def __init__(self, slop):
        super().__init__(slop)
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
        busy.done.append(frame.image.encoding if frame else "no frame")

    busy.inputs = WatchedInputs(0.02)
    busy.worker = Worker(busy.inputs, process, busy.done.append)
    busy.worker.start()
    busy.inputs.put_image(Image(encoding="first"))
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
        assert busy.inputs.woken.acquire(timeout=PATIENCE_S)


def test_jobs_are_done_on_its_thread_one_after_a_frame(busy):
    def job():
        busy.done.append("job")
        busy.inputs.put_image(Image(encoding="next"))
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
    busy.inputs.close()
    busy.go_on.set()
    busy.worker.stop()
    with pytest.raises(VocabularyError, match="an active node"):
        answer.result(PATIENCE_S)
    with pytest.raises(VocabularyError, match="an active node"):
        busy.worker.between_frames(lambda: busy.done.append("job"))
    assert busy.done == ["first"]
