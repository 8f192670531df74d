"""Where embeddings and compiled models are cached."""

import logging
import os
import tempfile
from functools import cache
from pathlib import Path

import platformdirs

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "OVS_ROS_CACHE"


def default_directory() -> Path:
    """Where embeddings are kept: $OVS_ROS_CACHE, or the user's cache directory where that is not set.

    A user without a home directory gets a temporary one that is removed at exit.
    """
    named = os.environ.get(CACHE_VARIABLE)
    try:
        path = Path(named).expanduser() if named else platformdirs.user_cache_path("ovs_ros")
    except RuntimeError:  # pathlib and new versions of platformdirs find no home directory.
        return Path(_temporary().name)
    # Old ones leave '~' as it is.
    return Path(_temporary().name) if path.parts[:1] == ("~",) else path


@cache
def _temporary() -> "tempfile.TemporaryDirectory[str]":
    logger.warning(
        "There is no home directory (HOME is not set), so that nothing is cached beyond this process; set %s "
        "to a directory that can be written",
        CACHE_VARIABLE,
    )
    return tempfile.TemporaryDirectory(prefix="ovs_ros_cache_")
