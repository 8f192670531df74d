from rclpy.exceptions import ParameterNotDeclaredException as ParameterNotDeclaredException, ParameterUninitializedException as ParameterUninitializedException
from rclpy.parameter import PARAMETER_SEPARATOR_STRING as PARAMETER_SEPARATOR_STRING, Parameter as Parameter
from rclpy.qos import qos_profile_parameters as qos_profile_parameters
from rclpy.validate_topic_name import TOPIC_SEPARATOR_STRING as TOPIC_SEPARATOR_STRING

class ParameterService:
    def __init__(self, node) -> None: ...
