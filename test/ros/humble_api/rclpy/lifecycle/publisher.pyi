from .managed_entity import SimpleManagedEntity as SimpleManagedEntity
from rclpy.publisher import MsgType as MsgType, Publisher as Publisher

class LifecyclePublisher(SimpleManagedEntity, Publisher):
    def __init__(self, *args, **kwargs) -> None: ...
    @SimpleManagedEntity.when_enabled
    def publish(self, msg: MsgType | bytes) -> None: ...
