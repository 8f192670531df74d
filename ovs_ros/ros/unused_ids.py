"""How long ago ids went out of use."""

from collections.abc import Callable

from ovs_ros.vocabulary.vocabulary import Vocabulary

GRACE_S = 10.0
"""An id is given to another name only so long after its own was removed: subscribers may still work on label
images that have it."""


class UnusedIds:
    """The ids that removed names hold, and since when.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[int, float] = {}  # In the order of time.

    def update(self, vocabulary: Vocabulary) -> None:
        """This vocabulary holds from now on."""
        unused = vocabulary.id_holders.keys() - set(vocabulary.ids.tolist())
        now = self._clock()
        kept = {number: since for number, since in self._since.items() if number in unused}
        self._since = kept | {number: now for number in sorted(unused - kept.keys())}

    def spare(self) -> tuple[int, ...]:
        """Those whose names were removed `GRACE_S` ago or before, the first ones first."""
        until = self._clock() - GRACE_S
        return tuple(number for number, since in self._since.items() if since <= until)
