"""A ROS domain of its own for every test: by nothing else does DDS tell the nodes of one host apart."""

import gc
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, cycle, islice

import rclpy
from rclpy.context import Context

from ovs_ros.ros.demo.run import LOWEST_DOMAIN

DOMAINS = LOWEST_DOMAIN - 1
"""Domains from 1 on: those of demonstrations and measurements are others."""
COLLECT_EVERY = 8
"""A destroyed lifecycle node keeps its DDS participant, 70 MB and eleven threads, until cyclic garbage is
collected. By itself Python does that too rarely: a run of all tests grew to 10 GB."""
_ended = count(1)
# In turn, because a participant that has left is still heard in its domain for a while: about one new node in
# a hundred then had services that did not match until the old lease of 20 s ended.
_turns = cycle(1 + (os.getpid() * 37 + turn) % DOMAINS for turn in range(DOMAINS))


@contextmanager
def own_domain() -> Iterator[int]:
    """A domain that no other test run on this machine uses meanwhile, and this one has not used lately.

    Raises:
        RuntimeError: other test runs hold all domains.
    """
    for domain in islice(_turns, DOMAINS):
        with socket.socket(socket.AF_UNIX) as lock:
            try:
                lock.bind(f"\0ovs_ros_test_domain_{domain}")
            except OSError:
                continue
            yield domain
            return
    raise RuntimeError(f"test runs on this machine hold all {DOMAINS} ROS domains")


@contextmanager
def own_context() -> Iterator[Context]:
    """An initialised context in a domain of its own; `domain_id` is the context's `get_domain_id()`."""
    context = Context()
    with own_domain() as domain:
        rclpy.init(context=context, domain_id=domain)
        try:
            yield context
        finally:
            context.try_shutdown()
            if next(_ended) % COLLECT_EVERY == 0:
                gc.collect()
