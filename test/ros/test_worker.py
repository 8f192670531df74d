import threading

from sensor_msgs.msg import Image

from ovs_ros.ros.inputs import Inputs
from ovs_ros.ros.worker import Worker

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
