import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from fakes import ColorTextEncoder, TogetherImageEncoder, color_image, color_segmenter
from sensor_msgs.msg import Image

from ovs_ros.model import Model
from ovs_ros.options import SegmenterOptions
from ovs_ros.ros import worker as worker_module
from ovs_ros.ros.frames import Frame, FrameQueue
from ovs_ros.ros.pipeline import Asked
from ovs_ros.ros.throttle import Throttle
from ovs_ros.ros.worker import Worker, stop_together
from ovs_ros.segmenter import Segmenter
from ovs_ros.vocabulary.errors import VocabularyError
from ovs_ros.vocabulary.vocabulary import Vocabulary

PATIENCE_S = 10


class Steps:
    """A pipeline of functions; it asks for nothing to be segmented."""

    def __init__(self, process, failed, announce=lambda: None):
        self._process, self.failed, self.announce = process, failed, announce

    def process(self, frame):
        self._process(frame)
        return
        yield


def make_worker(queue, pipelines, segmenter=None):
    return Worker(queue, pipelines, segmenter or color_segmenter(), Throttle(lambda text: None))


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
    worker = make_worker(queue, [Steps(process, failed)])
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
    worker = make_worker(queue, [Steps(process, finished.append)])
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


def test_workers_that_hang_are_waited_for_together(monkeypatch):
    monkeypatch.setattr(worker_module, "STOPPING_S", 0.2)
    go_on, started, gone = threading.Event(), threading.Semaphore(0), []

    def hang(frame):
        started.release()
        assert go_on.wait(PATIENCE_S)

    hanging = []
    for _ in range(2):
        queue = FrameQueue()
        hanging.append(make_worker(queue, [Steps(hang, gone.append)]))
        hanging[-1].start()
        put(queue, "hangs")
        assert started.acquire(timeout=PATIENCE_S)
    idle = make_worker(FrameQueue(), [Steps(hang, gone.append)])
    idle.start()
    assert stop_together([*hanging, idle]) == hanging
    go_on.set()


def test_a_worker_without_frames_announces_now_and_then():
    seen = threading.Semaphore(0)
    queue = FrameQueue()
    pipelines = [Steps(lambda _: None, lambda _: None, seen.release)]
    worker = Worker(queue, pipelines, color_segmenter(), Throttle(lambda text: None), patience=0.01)
    worker.start()
    for _ in range(3):
        assert seen.acquire(timeout=PATIENCE_S)
    worker.stop()


def test_waking_announces_and_processes_nothing():
    seen = threading.Semaphore(0)
    got = []
    queue = FrameQueue(2)
    worker = make_worker(queue, [Steps(got.append, got.append, seen.release) for _ in range(2)])
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
    worker = make_worker(
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
    busy.worker = make_worker(busy.queue, [Steps(process, busy.done.append)])
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


class Camera:
    """A pipeline whose frames are plain pictures of one colour."""

    def __init__(self, words, color, again=None):
        self.words, self.color, self._again = words, color, again
        self.results, self.errors, self.done = [], [], threading.Semaphore(0)

    def announce(self):
        pass

    def failed(self, error):
        self.errors.append(error)
        self.done.release()

    def process(self, frame):
        result = yield Asked(color_image([[self.color]]), self.words, SegmenterOptions())
        self.results.append(result)
        if self._again is not None:
            self._again()
        self.done.release()


@pytest.fixture
def together():
    """A segmenter that encodes images together, its encoder, and the words of some colours."""
    encoder = TogetherImageEncoder()
    segmenter = Segmenter(Model(encoder, ColorTextEncoder()))
    names = ["red", "green", "blue"]
    words = segmenter.embed(Vocabulary.from_names(names))
    return SimpleNamespace(segmenter=segmenter, encoder=encoder, words=words, names=names)


def at_once(together, cameras):
    """Let frames of all cameras wait, and a worker take them."""
    queue = FrameQueue(len(cameras))
    worker = make_worker(queue, cameras, together.segmenter)
    for index in range(len(cameras)):
        put(queue, "rgb8", index)
    worker.start()
    for camera in cameras:
        assert camera.done.acquire(timeout=PATIENCE_S)
    worker.stop()


def test_frames_that_wait_are_encoded_together_and_each_camera_gets_its_own_result(together):
    cameras = [Camera(together.words, color) for color in together.names]
    at_once(together, cameras)
    assert together.encoder.batches == [3]
    assert [camera.results[0].selected_names for camera in cameras] == [(name,) for name in together.names]


def test_a_frame_that_fails_costs_the_others_nothing(together):
    cameras = [Camera(together.words, color) for color in together.names]
    encode = together.encoder.encode

    def fails(image):
        features = encode(image)
        if image[0, 0, 1]:  # green
            features.patch_tokens[:] = float("nan")
        return features

    together.encoder.encode = fails
    at_once(together, cameras)
    assert [len(camera.results) for camera in cameras] == [1, 0, 1]
    assert [type(camera.errors[0]).__name__ for camera in cameras if camera.errors] == ["NotFiniteError"]


def test_frames_with_other_words_go_alone(together):
    other = together.segmenter.embed(Vocabulary.from_names(["black", "cyan"]))
    cameras = [Camera(together.words, "red"), Camera(other, "cyan")]
    at_once(together, cameras)
    assert together.encoder.batches == [1, 1]
    assert [camera.results[0].selected_names for camera in cameras] == [("red",), ("cyan",)]


def test_cameras_keep_the_ratio_of_their_priorities(together):
    queue = FrameQueue(3, lambda: (2.0, 1.0, 1.0))
    cameras = [
        Camera(together.words, color, again=lambda index=index: put(queue, "rgb8", index))
        for index, color in enumerate(together.names)
    ]
    worker = make_worker(queue, cameras, together.segmenter)
    for index in range(3):
        put(queue, "rgb8", index)
    worker.start()
    for _ in range(40):
        assert cameras[0].done.acquire(timeout=PATIENCE_S)
    worker.stop()
    first, *others = (len(camera.results) for camera in cameras)
    assert all(abs(first / 2 - count) <= 2 for count in others), (first, others)
    assert 3 in together.encoder.batches


def test_where_frames_hang_together_is_told(together):
    hangs, go_on = threading.Event(), threading.Event()

    def hang():
        hangs.set()
        assert go_on.wait(PATIENCE_S)

    together.encoder.on_backbone = hang
    queue = FrameQueue(2)
    cameras = [Camera(together.words, "red"), Camera(together.words, "blue")]
    worker = make_worker(queue, cameras, together.segmenter)
    for index in range(2):
        put(queue, "rgb8", index)
    worker.start()
    try:
        assert hangs.wait(PATIENCE_S)
        seconds, where = worker.busy()
        assert seconds > 0 and where.startswith("encode_batch() in model.py")
    finally:
        go_on.set()
        worker.stop()
