from pathlib import Path

import pytest
from fault_table import END, START, FaultTable

pytest_plugins = ["pytester"]
TESTS = """
import pytest

@pytest.mark.fault("a cable is pulled", "the node warns")
@pytest.mark.parametrize("side", ["left", "right"])
def test_cable(side): assert side == "left"

@pytest.mark.fault("a bit flips", "the row is made again")
def test_bit(): pass

def test_other(): pass
"""


def test_marked_tests_are_counted_in_the_page(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    page = Path(pytester.path) / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    pytester.makeini("[pytest]\nmarkers = fault: injects a fault")
    pytester.inline_run("-p", "no:cacheprovider", plugins=[FaultTable(page)])
    text = page.read_text()
    assert "| a cable is pulled | the node warns | 2 | 1 failed |" in text
    assert "| a bit flips | the row is made again | 1 | passed |" in text
    assert "old" not in text and text.startswith("before\n") and text.endswith("\nafter\n")
