"""Opens the file of a tokenizer of the package tokenizers."""

from pathlib import Path

from tokenizers import Tokenizer

from ovs_ros.runtime.files import read_file

_MOST_BYTES = 64 << 20


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no tokenizer.
    """
    try:
        return Tokenizer.from_buffer(read_file(path, _MOST_BYTES))
    except (FileNotFoundError, KeyboardInterrupt):
        raise
    except BaseException as error:  # It raises plain exceptions, and panics that are none.
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"expected a tokenizer in {path}, got a file that cannot be read as one ({reason}); copy or "
            "install it again"
        ) from error
