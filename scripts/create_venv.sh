#!/bin/sh
# Create the virtual environment $1 with a Python that ROS 2's wheels exist for, if possible with version $2.
# PYTHON=... in the environment names one; otherwise the first suitable one on PATH is taken.
set -eu
venv=$1

suitable='
import sys, sysconfig, pathlib
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit("is Python %d.%d" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("has no venv module")
if not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists():
    sys.exit("has no C headers (Python.h)")
'

for tool in g++ make; do
    if ! command -v "$tool" >/dev/null; then
        echo "error: '$tool' is needed to build the ROS interfaces and was not found. Install it with" >&2
        echo "    sudo apt install build-essential" >&2
        exit 1
    fi
done

tried=
preferred=${2:+python$2 $HOME/.pyenv/versions/$2.*/bin/python}
for python in ${PYTHON:-$preferred python3.12 python3.11 python3.10 python3 "$HOME"/.pyenv/versions/3.1[0-2].*/bin/python}; do
    command -v "$python" >/dev/null || continue
    if reason=$("$python" -c "$suitable" 2>&1); then
        echo "==> Creating $venv with $("$python" --version) ($(command -v "$python"))"
        rm -rf "$venv"
        "$python" -m venv "$venv"
        # colcon must not take the environment's folders for packages.
        touch "$venv/COLCON_IGNORE"
        exit 0
    fi
    tried="$tried
    $python $(echo "$reason" | tail -n 1)"
done

echo "error: no usable Python 3.10, 3.11 or 3.12 (the versions that ROS 2's wheels exist for). Tried:$tried" >&2
echo "Install one with its headers and venv, for example on Debian 12 or Ubuntu 22.04 and later" >&2
echo "    sudo apt install python3 python3-dev python3-venv" >&2
echo "or name one: make setup PYTHON=/path/to/python3.12" >&2
exit 1
