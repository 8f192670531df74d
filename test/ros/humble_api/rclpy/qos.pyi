from _typeshed import Incomplete
from enum import Enum, IntEnum
from rclpy.duration import Duration as Duration

class QoSPolicyKind(IntEnum):
    INVALID: Incomplete
    DURABILITY: Incomplete
    DEADLINE: Incomplete
    LIVELINESS: Incomplete
    RELIABILITY: Incomplete
    HISTORY: Incomplete
    LIFESPAN: Incomplete
    DEPTH: Incomplete
    LIVELINESS_LEASE_DURATION: Incomplete
    AVOID_ROS_NAMESPACE_CONVENTIONS: Incomplete

def qos_policy_name_from_kind(policy_kind: QoSPolicyKind | int): ...

class InvalidQoSProfileException(Exception):
    def __init__(self, *args) -> None: ...

class QoSProfile:
    def __init__(self, **kwargs) -> None: ...
    @property
    def history(self): ...
    @history.setter
    def history(self, value) -> None: ...
    @property
    def reliability(self): ...
    @reliability.setter
    def reliability(self, value) -> None: ...
    @property
    def durability(self): ...
    @durability.setter
    def durability(self, value) -> None: ...
    @property
    def depth(self): ...
    @depth.setter
    def depth(self, value) -> None: ...
    @property
    def lifespan(self): ...
    @lifespan.setter
    def lifespan(self, value) -> None: ...
    @property
    def deadline(self): ...
    @deadline.setter
    def deadline(self, value) -> None: ...
    @property
    def liveliness(self): ...
    @liveliness.setter
    def liveliness(self, value) -> None: ...
    @property
    def liveliness_lease_duration(self): ...
    @liveliness_lease_duration.setter
    def liveliness_lease_duration(self, value) -> None: ...
    @property
    def avoid_ros_namespace_conventions(self): ...
    @avoid_ros_namespace_conventions.setter
    def avoid_ros_namespace_conventions(self, value) -> None: ...
    def get_c_qos_profile(self): ...
    def __eq__(self, other): ...

class QoSPolicyEnum(IntEnum):
    @classmethod
    def short_keys(cls): ...
    @classmethod
    def get_from_short_key(cls, name): ...
    @property
    def short_key(self): ...

class _DeprecatedPolicyValueAlias:
    replacement_name: Incomplete
    deprecated_name: Incomplete
    def __init__(self, replacement_name, deprecated_name) -> None: ...
    def __get__(self, obj, policy_cls): ...

class HistoryPolicy(QoSPolicyEnum):
    SYSTEM_DEFAULT: int
    KEEP_LAST: int
    KEEP_ALL: int
    UNKNOWN: int
QoSHistoryPolicy = HistoryPolicy

class ReliabilityPolicy(QoSPolicyEnum):
    SYSTEM_DEFAULT: int
    RELIABLE: int
    BEST_EFFORT: int
    UNKNOWN: int
QoSReliabilityPolicy = ReliabilityPolicy

class DurabilityPolicy(QoSPolicyEnum):
    SYSTEM_DEFAULT: int
    TRANSIENT_LOCAL: int
    VOLATILE: int
    UNKNOWN: int
QoSDurabilityPolicy = DurabilityPolicy

class LivelinessPolicy(QoSPolicyEnum):
    SYSTEM_DEFAULT: int
    AUTOMATIC: int
    MANUAL_BY_TOPIC: int
    UNKNOWN: int
QoSLivelinessPolicy = LivelinessPolicy
qos_profile_unknown: Incomplete
qos_profile_system_default: Incomplete
qos_profile_sensor_data: Incomplete
qos_profile_services_default: Incomplete
qos_profile_parameters: Incomplete
qos_profile_parameter_events: Incomplete
qos_profile_action_status_default: Incomplete

class QoSPresetProfiles(Enum):
    UNKNOWN = qos_profile_unknown
    SYSTEM_DEFAULT = qos_profile_system_default
    SENSOR_DATA = qos_profile_sensor_data
    SERVICES_DEFAULT = qos_profile_services_default
    PARAMETERS = qos_profile_parameters
    PARAMETER_EVENTS = qos_profile_parameter_events
    ACTION_STATUS_DEFAULT = qos_profile_action_status_default
    @classmethod
    def short_keys(cls): ...
    @classmethod
    def get_from_short_key(cls, name): ...

QoSCompatibility: Incomplete

def qos_check_compatible(publisher_qos: QoSProfile, subscription_qos: QoSProfile): ...
