from _typeshed import Incomplete
from rclpy.callback_groups import CallbackGroup as CallbackGroup
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.qos import QoSProfile as QoSProfile
from typing import Callable, TypeVar

SrvType = TypeVar('SrvType')
SrvTypeRequest = TypeVar('SrvTypeRequest')
SrvTypeResponse = TypeVar('SrvTypeResponse')

class Service:
    srv_type: Incomplete
    srv_name: Incomplete
    callback: Incomplete
    callback_group: Incomplete
    qos_profile: Incomplete
    def __init__(self, service_impl: _rclpy.Service, srv_type: SrvType, srv_name: str, callback: Callable[[SrvTypeRequest, SrvTypeResponse], SrvTypeResponse], callback_group: CallbackGroup, qos_profile: QoSProfile) -> None: ...
    def send_response(self, response: SrvTypeResponse, header) -> None: ...
    @property
    def handle(self): ...
    def destroy(self) -> None: ...
