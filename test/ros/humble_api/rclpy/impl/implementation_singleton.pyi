from _typeshed import Incomplete

package: str
rclpy_implementation: Incomplete
