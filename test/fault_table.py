"""The table of docs/guide/reliability.md: each kind of fault, what happens, and what its tests say.

A test that injects a fault carries `@pytest.mark.fault(KIND, WHAT_HAPPENS)`. `make faults` runs these tests
and writes the table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

START, END = "<!-- The table below is written by `make faults`. -->", "<!-- End of the table. -->"
HEAD = "| fault | what happens | tests | result |\n|---|---|---|---|\n"


@dataclass
class Row:
    """One kind of fault: what happens, and how many of its tests passed."""

    happens: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def cells(self) -> str:
        """Its number of tests, and their result."""
        total = self.passed + self.failed + self.skipped
        parts = [
            f"{number} {word}"
            for number, word in ((self.failed, "failed"), (self.skipped, "skipped"))
            if number
        ]
        return f"{total} | {', '.join(parts) or 'passed'}"


class FaultTable:
    """A pytest plugin that counts the results of tests marked as `fault`, and writes them into a page.

    Args:
        page: Markdown, with START and END in it.
    """

    def __init__(self, page: Path) -> None:
        self.page = page
        self.rows: dict[str, Row] = {}
        self._kind_of: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        """Learn the kinds, in the order of the tests."""
        for item in items:
            for mark in item.iter_markers("fault"):
                kind, happens = mark.args
                self.rows.setdefault(kind, Row(happens))
                self._kind_of[item.nodeid] = kind

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count."""
        row = self.rows.get(self._kind_of.get(report.nodeid, ""))
        if row is None:
            return
        if report.failed:
            row.failed += 1
        elif report.skipped:
            row.skipped += 1
        elif report.when == "call":
            row.passed += 1

    def pytest_sessionfinish(self) -> None:
        """Write the table."""
        before, start, rest = self.page.read_text(encoding="utf-8").partition(START)
        _, end, after = rest.partition(END)
        if not start or not end:
            raise pytest.UsageError(f"expected {START} and {END} in {self.page}")
        lines = "".join(self._lines())
        self.page.write_text(f"{before}{start}\n\n{HEAD}{lines}\n{end}{after}", encoding="utf-8")

    def _lines(self) -> Iterator[str]:
        for kind, row in self.rows.items():
            yield f"| {kind} | {row.happens} | {row.cells} |\n"
