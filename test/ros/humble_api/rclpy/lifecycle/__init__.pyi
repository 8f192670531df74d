from .managed_entity import ManagedEntity as ManagedEntity, SimpleManagedEntity as SimpleManagedEntity
from .node import LifecycleNode as LifecycleNode, LifecycleNodeMixin as LifecycleNodeMixin, LifecycleState as LifecycleState
from .publisher import LifecyclePublisher as LifecyclePublisher
from _typeshed import Incomplete

Node = LifecycleNode
NodeMixin = LifecycleNodeMixin
State = LifecycleState
Publisher = LifecyclePublisher
TransitionCallbackReturn: Incomplete
