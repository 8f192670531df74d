import types
from _typeshed import Incomplete
from enum import IntEnum
from rclpy.callback_groups import CallbackGroup as CallbackGroup
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.logging import get_logger as get_logger
from rclpy.qos import qos_policy_name_from_kind as qos_policy_name_from_kind
from rclpy.waitable import NumberOfEntities as NumberOfEntities, Waitable as Waitable
from typing import Callable

QoSPublisherEventType: Incomplete
QoSSubscriptionEventType: Incomplete
QoSRequestedDeadlineMissedInfo: Incomplete
QoSLivelinessChangedInfo: Incomplete
QoSMessageLostInfo: Incomplete
QoSRequestedIncompatibleQoSInfo: Incomplete
QoSOfferedDeadlineMissedInfo: Incomplete
QoSLivelinessLostInfo: Incomplete
QoSOfferedIncompatibleQoSInfo = QoSRequestedIncompatibleQoSInfo
UnsupportedEventTypeError: Incomplete

class QoSEventHandler(Waitable):
    event_type: Incomplete
    callback: Incomplete
    def __init__(self, *, callback_group: CallbackGroup, callback: Callable, event_type: IntEnum, parent_impl) -> None: ...
    def is_ready(self, wait_set): ...
    def take_data(self): ...
    async def execute(self, taken_data) -> None: ...
    def get_num_entities(self): ...
    def add_to_wait_set(self, wait_set) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: types.TracebackType | None) -> None: ...
    def destroy(self) -> None: ...

class SubscriptionEventCallbacks:
    deadline: Incomplete
    incompatible_qos: Incomplete
    liveliness: Incomplete
    message_lost: Incomplete
    use_default_callbacks: Incomplete
    def __init__(self, *, deadline: Callable[[QoSRequestedDeadlineMissedInfo], None] | None = None, incompatible_qos: Callable[[QoSRequestedIncompatibleQoSInfo], None] | None = None, liveliness: Callable[[QoSLivelinessChangedInfo], None] | None = None, message_lost: Callable[[QoSMessageLostInfo], None] | None = None, use_default_callbacks: bool = True) -> None: ...
    def create_event_handlers(self, callback_group: CallbackGroup, subscription: _rclpy.Subscription, topic_name: str) -> list[QoSEventHandler]: ...

class PublisherEventCallbacks:
    deadline: Incomplete
    liveliness: Incomplete
    incompatible_qos: Incomplete
    use_default_callbacks: Incomplete
    def __init__(self, *, deadline: Callable[[QoSOfferedDeadlineMissedInfo], None] | None = None, liveliness: Callable[[QoSLivelinessLostInfo], None] | None = None, incompatible_qos: Callable[[QoSRequestedIncompatibleQoSInfo], None] | None = None, use_default_callbacks: bool = True) -> None: ...
    def create_event_handlers(self, callback_group: CallbackGroup, publisher: _rclpy.Publisher, topic_name: str) -> list[QoSEventHandler]: ...
