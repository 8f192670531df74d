"""What a trained network's file says of itself: over which encoders, in which words, on which names."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

RECORD_KEY = "record"
"""Its name in the metadata of an ONNX file, and in a checkpoint."""


@dataclass(frozen=True)
class NetworkRecord:
    """What a network was trained over and on.

    Attributes:
        encoders: the name of the encoders.
        digest: of their weights; '': it is not known.
        templates: prompt templates, each with one '{}'.
        names: that pixels were labelled with.
    """

    encoders: str = ""
    digest: str = ""
    templates: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def check(self, encoders: str, digest: str, templates: Sequence[str]) -> None:
        """Refuse other encoders or templates, as far as those are known on both sides.

        Raises:
            ValueError: they are others.
        """
        if self.digest and digest and self.digest != digest:
            raise ValueError(
                f"expected a network trained over {encoders} (digest {digest}), got one over {self.encoders} "
                f"(digest {self.digest}); use it with its own encoders, or train it again"
            )
        if self.templates and templates and self.templates != tuple(templates):
            raise ValueError(
                f"expected {len(self.templates)} templates, with which the network was trained, such as "
                f"{self.templates[0]!r}, got {len(templates)}, such as {templates[0]!r}; use the former"
            )

    def to_text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> "NetworkRecord":
        """The inverse of `to_text`; nothing is known where the text is empty.

        Raises:
            ValueError: it is another text.
        """
        try:
            stored = json.loads(text or "{}")
            names = {key: tuple(stored.get(key, ())) for key in ("templates", "names")}
            return cls(**{**stored, **names})
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"expected the record of a network, got {text[:80]!r}; train it again"
            ) from error
