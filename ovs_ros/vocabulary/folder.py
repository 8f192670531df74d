"""Vocabularies that somebody names from outside: shipped ones, and those of one folder."""

import re
from pathlib import Path

from ovs_ros.vocabulary.vocabulary import Vocabulary, VocabularyError
from ovs_ros.vocabulary.yaml_io import SHIPPED, load_vocabulary

_NAME = re.compile(r"[\w-][\w .-]{0,99}")
_SHOWN = 20


def load_by_name(name: str, folder: Path | None) -> Vocabulary:
    """Read NAME.yaml out of a folder, or of the shipped vocabularies.

    Args:
        name: without '.yaml'; never a path.
        folder: whose files may be read; those that its links lead to may not. None: the shipped ones alone.

    Raises:
        VocabularyError: it is no plain name, there is no such file, or `load_vocabulary` refuses it.
    """
    if not _NAME.fullmatch(name):
        raise VocabularyError(
            "expected the name of a vocabulary, in letters, digits, '-', '_', '.' and blanks, got "
            f"{name[:100]!r}; leave folders out"
        )
    folders = [SHIPPED] if folder is None else [folder, SHIPPED]
    for one in folders:
        path = one / f"{name}.yaml"
        if path.is_file() and path.resolve().parent == one.resolve():
            return load_vocabulary(path)
    known = sorted({path.stem for one in folders for path in one.glob("*.yaml")})
    listed = ", ".join(known[:_SHOWN]) + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")
    where = "the parameter vocabulary_folder is not set" if folder is None else f"the folder is {folder}"
    raise VocabularyError(f"expected one of the vocabularies {listed}, got '{name}'; {where}")
