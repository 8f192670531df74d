from ovs_ros.ros.throttle import Throttle


def test_one_of_a_kind_gets_through_and_kinds_do_not_hide_each_other():
    log = []
    throttle = Throttle(log.append)
    for _ in range(5):
        throttle.warn("a", "text a")
        throttle.warn("b", "text b")
    assert log == ["text a", "text b"]


def test_the_next_one_tells_how_many_were_held_back():
    log = []
    throttle = Throttle(log.append)
    throttle.warn("a", "first")
    throttle.warn("a", "second")
    throttle.warn("a", "third")
    throttle.warn("a", "fourth", seconds=0)
    throttle.warn("a", "fifth", seconds=0)
    assert log == ["first", "fourth (2 more since the last such warning)", "fifth"]
