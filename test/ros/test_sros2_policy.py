"""The SROS 2 policy names what the node publishes, hears and serves."""

from fnmatch import fnmatchcase
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rig import running

POLICY = Path(__file__).parents[2] / "config" / "sros2_policy.xml"


def allowed(enclave: str, kind: str, right: str) -> list[str]:
    """The resolved names, some with '*', for which an enclave has a right."""
    (profile,) = ElementTree.parse(POLICY).findall(f".//enclave[@path='{enclave}']//profile")
    names = [
        (one.text or "").replace("~", f"/{profile.get('node')}")
        for group in profile.findall(kind)
        if group.get(right) == "ALLOW"
        for one in group
    ]
    return [name if name.startswith("/") else f"/{name}" for name in names]


def without(names, patterns):
    return {name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)}


@pytest.mark.parametrize("parameters", [{}, {"image_transport": "compressed", "use_sim_time": True}])
def test_the_node_has_what_it_needs(vocabulary, parameters):
    with running(vocabulary, **parameters) as robot:
        published = dict(robot.helper.get_publisher_names_and_types_by_node("ovs", "/"))
        heard = dict(robot.helper.get_subscriber_names_and_types_by_node("ovs", "/"))
        served = dict(robot.helper.get_service_names_and_types_by_node("ovs", "/"))
    actions = [f"{name}/_action/*" for name in allowed("/ovs", "actions", "execute")]
    assert not without(published, allowed("/ovs", "topics", "publish") + actions)
    assert not without(heard, allowed("/ovs", "topics", "subscribe"))
    assert not without(served, allowed("/ovs", "services", "reply") + actions)
    # None is served that the policy misspells.
    parts = [
        name for name in allowed("/ovs", "services", "reply") if not name.endswith("get_type_description")
    ]
    assert set(parts) <= set(served)


def test_only_the_operator_may_change_words_and_parameters():
    changing = [
        "set_vocabulary",
        "reset_vocabulary",
        "load_vocabulary",
        "teach",
        "set_parameters",
        "change_state",
    ]
    names = [f"/ovs/{name}" for name in changing]
    assert not without(names, allowed("/operator", "services", "request"))
    assert without(names, allowed("/viewer", "services", "request")) == set(names)
    assert not without(["/ovs/get_vocabulary"], allowed("/viewer", "services", "request"))
    assert not allowed("/viewer", "actions", "call")
