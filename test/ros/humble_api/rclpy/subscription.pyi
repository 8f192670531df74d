from _typeshed import Incomplete
from rclpy.callback_groups import CallbackGroup as CallbackGroup
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.qos import QoSProfile as QoSProfile
from rclpy.qos_event import QoSEventHandler as QoSEventHandler, SubscriptionEventCallbacks as SubscriptionEventCallbacks
from typing import Callable, TypeVar

MsgType = TypeVar('MsgType')

class Subscription:
    msg_type: Incomplete
    topic: Incomplete
    callback: Incomplete
    callback_group: Incomplete
    qos_profile: Incomplete
    raw: Incomplete
    event_handlers: QoSEventHandler
    def __init__(self, subscription_impl: _rclpy.Subscription, msg_type: MsgType, topic: str, callback: Callable, callback_group: CallbackGroup, qos_profile: QoSProfile, raw: bool, event_callbacks: SubscriptionEventCallbacks) -> None: ...
    @property
    def handle(self): ...
    def destroy(self) -> None: ...
    @property
    def topic_name(self): ...
