from _typeshed import Incomplete

S_TO_NS: Incomplete
