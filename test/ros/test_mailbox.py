import threading
from time import monotonic

import pytest

from ovs_ros.ros.mailbox import COMPANIONS, Mailbox


def later(action):
    timer = threading.Timer(0.05, action)
    timer.daemon = True
    timer.start()


def test_the_newest_frame_wins():
    mailbox = Mailbox()
    assert [mailbox.put(frame) for frame in (1, 2, 3)] == [False, True, True]
    assert mailbox.take() == 3
    assert mailbox.put(4) is False


@pytest.mark.parametrize(("action", "expected"), [("put", 7), ("wake", None), ("close", None)])
def test_take_waits_until_something_happens(action, expected):
    mailbox = Mailbox()
    later(lambda: getattr(mailbox, action)(*([7] if action == "put" else [])))
    assert mailbox.take() == expected


def test_closing_drops_the_frame_and_holds_for_ever():
    mailbox = Mailbox()
    mailbox.put(1)
    mailbox.close()
    assert mailbox.closed
    assert mailbox.take() is None
    assert mailbox.take() is None


def test_a_companion_is_found_by_its_stamp_and_only_once():
    mailbox = Mailbox()
    mailbox.put_companion(5, "five")
    mailbox.put_companion(6, "six")
    assert mailbox.companion(str, 5, 0) == "five"
    assert mailbox.companion(str, 5, 0) is None
    assert mailbox.companion(str, 6, 0) == "six"


def test_a_companion_may_come_late():
    mailbox = Mailbox()
    later(lambda: mailbox.put_companion(5, "five"))
    assert mailbox.companion(str, 5, timeout=10) == "five"


def test_nobody_waits_for_a_companion_while_a_newer_frame_waits():
    mailbox = Mailbox()
    later(lambda: mailbox.put(1))
    start = monotonic()
    assert mailbox.companion(str, 5, timeout=10) is None
    assert monotonic() - start < 5


def test_companions_of_frames_that_never_come_are_forgotten():
    mailbox = Mailbox()
    for stamp in range(COMPANIONS + 1):
        mailbox.put_companion(stamp, stamp)
    assert mailbox.companion(int, 0, 0) is None
    assert mailbox.companion(int, COMPANIONS, 0) == COMPANIONS


def test_companions_of_several_kinds_do_not_push_each_other_out():
    mailbox = Mailbox()
    mailbox.put_companion(5, "five")
    for stamp in range(COMPANIONS + 1):
        mailbox.put_companion(stamp, stamp)
    assert mailbox.companion(int, 5, 0) == 5
    assert mailbox.companion(str, 5, 0) == "five"
