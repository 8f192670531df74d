"""`python -m ovs_ros.ros.demo`: what `make demo` runs."""

from ovs_ros.ros.demo.run import main

main()
