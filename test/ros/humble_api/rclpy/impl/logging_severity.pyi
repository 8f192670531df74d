from _typeshed import Incomplete
from enum import IntEnum

class LoggingSeverity(IntEnum):
    UNSET: Incomplete
    DEBUG: Incomplete
    INFO: Incomplete
    WARN: Incomplete
    ERROR: Incomplete
    FATAL: Incomplete
