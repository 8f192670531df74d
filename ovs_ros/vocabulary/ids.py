"""Which id stands for which name, over all changes of a vocabulary."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, islice

from ovs_ros.vocabulary.category import MAX_IDS
from ovs_ros.vocabulary.errors import VocabularyError

MOST_OF_8_BITS = 254
"""The highest id in a label image of 8 bits, and the most names with one: 255 is unknown."""


def fits_8_bits(ids: Collection[int]) -> bool:
    """Whether a label image of 8 bits can hold these ids of all names."""
    return len(ids) <= MOST_OF_8_BITS and max(ids, default=0) <= MOST_OF_8_BITS


def give_ids(
    keys: Sequence[str], holders: Mapping[int, str], spare: Iterable[int] = ()
) -> tuple[list[int], dict[int, str]]:
    """Give each name an id: the one that it holds, otherwise a small one that no other name holds.

    Where these names would fit into 8 bits but for ids above 254, names take spare ids instead, and those
    that hold an id above 254 get a small one. Otherwise spare ids are taken only when all 65535 ids are held.

    Args:
        keys: each of another name (see `name_key`).
        holders: id -> key of the name that has it, or had it last.
        spare: held ids that may go to another name, the first ones first.

    Returns:
        The ids of the keys, and the holders after that; names that are not among the keys stay holders.

    Raises:
        VocabularyError: there are not enough ids.
    """
    # A name that got a small id holds its old one too.
    held = {key: number for number, key in sorted(holders.items(), reverse=True)}
    ids = {key: held.get(key) for key in keys}
    used = set(ids.values())
    reusable = [number for number in spare if number in holders and number not in used]
    if len(ids) <= MOST_OF_8_BITS:
        wanting = [key for key, number in ids.items() if number is None or number > MOST_OF_8_BITS]
        small = chain(
            (number for number in range(MOST_OF_8_BITS + 1) if number not in holders),
            (number for number in reusable if number <= MOST_OF_8_BITS),
        )
        found = list(islice(small, len(wanting)))
        if len(found) == len(wanting):
            ids.update(zip(wanting, found, strict=True))
    wanting = [key for key, number in ids.items() if number is None]
    free = chain((number for number in range(MAX_IDS) if number not in holders), reusable)
    found = list(islice(free, len(wanting)))
    if len(found) < len(wanting):
        raise VocabularyError(
            f"expected at most {MAX_IDS} names, those removed in the last seconds included, got "
            f"{len(wanting) - len(found)} more; use fewer names, or try again in some seconds"
        )
    ids.update(zip(wanting, found, strict=True))
    given = {key: number for key, number in ids.items() if number is not None}
    return list(given.values()), {**holders, **{number: key for key, number in given.items()}}
