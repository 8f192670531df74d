from _typeshed import Incomplete
from enum import Enum
from rcl_interfaces.msg import ParameterValue

PARAMETER_SEPARATOR_STRING: str

class Parameter:
    class Type(Enum):
        NOT_SET: Incomplete
        BOOL: Incomplete
        INTEGER: Incomplete
        DOUBLE: Incomplete
        STRING: Incomplete
        BYTE_ARRAY: Incomplete
        BOOL_ARRAY: Incomplete
        INTEGER_ARRAY: Incomplete
        DOUBLE_ARRAY: Incomplete
        STRING_ARRAY: Incomplete
        @classmethod
        def from_parameter_value(cls, parameter_value): ...
        def check(self, parameter_value): ...
    @classmethod
    def from_parameter_msg(cls, param_msg): ...
    def __init__(self, name, type_=None, value=None) -> None: ...
    @property
    def name(self): ...
    @property
    def type_(self): ...
    @property
    def value(self): ...
    def get_parameter_value(self): ...
    def to_parameter_msg(self): ...

def parameter_value_to_python(parameter_value: ParameterValue): ...
