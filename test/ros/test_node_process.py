"""The node as a process of its own: how it starts, fails and ends."""

import os
import signal
import subprocess
import sys
from time import monotonic, sleep

import pytest
from domain import own_context, own_domain
from node_process import DEADLINE_S, NodeProcess, node_process
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from vision_msgs.msg import LabelInfo

from ovs_ros.ros import interrupts
from ovs_ros.srv import GetVocabulary, SetVocabulary

MOMENTS = {
    "modules load": lambda process: process.has_loaded("_rclpy_pybind11"),
    "onnxruntime loads": lambda process: process.has_loaded("onnxruntime_pybind11_state"),
    "the node exists": lambda process: process.has_loaded("librmw_fastrtps_cpp"),
    "words are embedded": lambda process: "Loaded" in process.said or process.has_loaded("tokenizers"),
    "it waits": lambda process: "Active: images" in process.said,
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_promptly_and_quietly(tmp_path, moment, number):
    with node_process(tmp_path, environment={"OVS_ROS_CACHE": str(tmp_path)}) as process:
        process.until(lambda: MOMENTS[moment](process))
        status, seconds = process.end(number)
        assert status in (0, 128 + number)
        assert seconds < interrupts.GRACE_S + 3
        assert not any(word in process.said for word in ("Traceback", "ERROR", "XMLPARSER"))


def test_a_process_that_does_not_end_by_itself_is_ended(tmp_path):
    program = (
        "import time; from ovs_ros.ros import interrupts; interrupts.GRACE_S = 0.1; interrupts.catch()\n"
        "interrupts.then(lambda: print('asked', flush=True)); print('ready', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "asked\n"
    assert process.returncode == 0


@pytest.mark.fault(
    "the node is killed and starts again",
    "with a state file words, ids and versions go on; another session tells of the restart",
)
def test_after_a_kill_words_versions_and_ids_go_on_for_who_stayed_and_who_comes_late(tmp_path):
    name = "flamingo"
    arguments = {"state_file": str(tmp_path / "words"), "vocabulary": "office"}
    with own_context() as context:
        helper = Node("helper", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(helper)
        environment = {**os.environ, "ROS_DOMAIN_ID": str(context.get_domain_id()), "PYTHONUNBUFFERED": "1"}
        heard = {"stayed": [], "late": []}

        def listen(who):
            qos = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            helper.create_subscription(LabelInfo, "semantic/label_info", heard[who].append, qos)

        def named(who, count):
            """Of the newest message, the id of the word; None unless so many came."""
            if len(heard[who]) < count:
                executor.spin_once(timeout_sec=0.05)
                return None
            return next((c.class_id for c in heard[who][-1].class_map if c.class_name == name), "none")

        def ask(process, kind, service, request):
            client = helper.create_client(kind, service)
            process.until(lambda: executor.spin_once(timeout_sec=0.05) or client.service_is_ready())
            reply = client.call_async(request)
            process.until(lambda: executor.spin_once(timeout_sec=0.05) or reply.done())
            return reply.result()

        listen("stayed")
        process = NodeProcess(tmp_path / "first log", environment, arguments)
        try:
            process.until(lambda: named("stayed", 1) == "none")
            add = SetVocabulary.Request(mode=SetVocabulary.Request.ADD, names=[name])
            first = ask(process, SetVocabulary, "ovs/set_vocabulary", add)
            assert (first.success, first.version) == (True, 2), first.message
            before = ask(process, GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request()).session
        finally:
            process.popen.kill()
            process.popen.wait()
        count = len(heard["stayed"])
        process = NodeProcess(tmp_path / "second log", environment, arguments)
        try:
            process.until(lambda: named("stayed", count + 1) == first.ids[-1])
            listen("late")
            process.until(lambda: named("late", 1) == first.ids[-1])
            assert "The words are those of the last run, version 2" in process.said
            got = ask(process, GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request())
            assert (got.version, list(got.names), list(got.ids)) == (2, list(first.names), list(first.ids))
            assert got.session not in ("", before)
            assert heard["late"][-1].header.frame_id == f"{got.session}/2"
        finally:
            process.popen.kill()
            process.popen.wait()
            executor.shutdown()
            helper.destroy_node()


def test_exit_on_failure_ends_it_with_an_error(tmp_path):
    with node_process(tmp_path, exit_on_failure="true", vocabulary="ofice") as process:
        assert process.popen.wait(DEADLINE_S) == 1
        last = process.said.splitlines()[-1]
        assert last.startswith("ovs_node: configure failed") and "got 'ofice'" in last


def test_it_runs_without_home_and_without_an_entry_in_passwd(tmp_path):
    if subprocess.run(["unshare", "-U", "--map-user=54321", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make user namespaces")
    program = ["unshare", "-U", "--map-user=54321", "--map-group=54321", sys.executable]
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HOME", "OVS_ROS_CACHE", "XDG_CACHE_HOME", "ROS_LOG_DIR", "ROS_HOME")
    }
    with own_domain() as domain, (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*program, "-u", "-m", "ovs_ros.ros.node"],
            env={**environment, "ROS_DOMAIN_ID": str(domain)},
            cwd=tmp_path,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            end = monotonic() + DEADLINE_S
            while "Active: images" not in (tmp_path / "log").read_text():
                assert process.poll() is None and monotonic() < end, (tmp_path / "log").read_text()
                sleep(0.05)
        finally:
            process.terminate()
            process.wait(DEADLINE_S)
    assert [path.name for path in tmp_path.iterdir()] == ["log"], "nothing is left in the working folder"


def test_a_missing_clock_is_told(tmp_path):
    with node_process(tmp_path, use_sim_time="true") as process:
        process.until(lambda: "use_sim_time is true, but no time comes from /clock" in process.said)
