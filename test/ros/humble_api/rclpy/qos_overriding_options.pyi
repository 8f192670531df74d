from rcl_interfaces.msg import SetParametersResult
from rclpy.duration import Duration as Duration
from rclpy.exceptions import ParameterAlreadyDeclaredException as ParameterAlreadyDeclaredException
from rclpy.node import Node as Node
from rclpy.parameter import Parameter as Parameter
from rclpy.publisher import Publisher as Publisher
from rclpy.qos import QoSPolicyKind as QoSPolicyKind, QoSProfile as QoSProfile
from rclpy.subscription import Subscription as Subscription
from typing import Callable, Iterable

class InvalidQosOverridesError(Exception): ...
QosCallbackResult = SetParametersResult
QosCallbackType = Callable[[QoSProfile], QosCallbackResult]

class QoSOverridingOptions:
    def __init__(self, policy_kinds: Iterable[QoSPolicyKind], *, callback: QosCallbackType | None = None, entity_id: str | None = None) -> None: ...
    @property
    def policy_kinds(self) -> Iterable[QoSPolicyKind]: ...
    @property
    def callback(self) -> QosCallbackType | None: ...
    @property
    def entity_id(self) -> str | None: ...
    @classmethod
    def with_default_policies(cls, *, callback: QosCallbackType | None = None, entity_id: str | None = None) -> QoSOverridingOptions: ...
