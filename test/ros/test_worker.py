import threading

from ovs_ros.ros.mailbox import Mailbox
from ovs_ros.ros.worker import Worker

PATIENCE_S = 10


def test_a_frame_that_fails_does_not_end_the_worker():
    done = threading.Event()
    failures = []

    def process(frame):
        if frame == "bad":
            raise RuntimeError("no such frame")
        done.set()

    def failed(error):
        failures.append(str(error))
        mailbox.put("good")

    mailbox = Mailbox()
    worker = Worker(mailbox, process, failed)
    worker.start()
    mailbox.put("bad")
    assert done.wait(PATIENCE_S)
    worker.stop()
    assert failures == ["no such frame"]


def test_stopping_waits_for_the_frame_at_work_and_takes_no_other():
    started, go_on = threading.Event(), threading.Event()
    finished = []

    def process(frame):
        started.set()
        assert go_on.wait(PATIENCE_S)
        finished.append(frame)

    mailbox = Mailbox()
    worker = Worker(mailbox, process, finished.append)
    worker.start()
    mailbox.put(1)
    assert started.wait(PATIENCE_S)
    mailbox.put(2)
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    go_on.set()
    stopper.join(PATIENCE_S)
    assert not stopper.is_alive()
    assert finished == [1]


def test_waking_processes_nothing():
    seen = threading.Event()
    got = []

    def process(frame):
        got.append(frame)
        seen.set()

    mailbox = Mailbox()
    worker = Worker(mailbox, process, got.append)
    worker.start()
    mailbox.wake()
    assert seen.wait(PATIENCE_S)
    worker.stop()
    assert got == [None]
