"""Embeddings outlive the process, and a bad cache is never worse than none."""

import logging
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from fuzz import fuzz
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.runtime.cache_directory import default_directory
from ovs_ros.vocabulary import cache as cache_module
from ovs_ros.vocabulary.cache import FILE_NAME, EmbeddingCache, content_key

KEYS = [content_key("encoder", [str(i)]) for i in range(2000)]


def unit_vectors(count: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def filled(directory: Path, count: int = 3) -> dict[bytes, np.ndarray]:
    vectors = dict(zip(KEYS, unit_vectors(count), strict=False))
    EmbeddingCache(directory).put(vectors)
    return vectors


def assert_same(got: dict[bytes, np.ndarray], expected: dict[bytes, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for key, vector in expected.items():
        np.testing.assert_array_equal(got[key], vector)


def test_another_process_finds_what_one_has_put(tmp_path: Path) -> None:
    vectors = filled(tmp_path / "new" / "folder", 2000)
    found = EmbeddingCache(tmp_path / "new" / "folder").get(KEYS, dim=8)
    assert_same(found, vectors)
    assert found[KEYS[0]].dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        found[KEYS[0]][0] = 1


def test_memory_serves_before_the_disk(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    vectors = dict(zip(KEYS[:3], unit_vectors(3), strict=True))
    cache.put(vectors)
    (tmp_path / FILE_NAME).unlink()
    assert_same(cache.get(KEYS[:5], dim=8), vectors)


def test_knows_nothing_at_first_and_makes_no_file_by_asking(tmp_path: Path) -> None:
    assert EmbeddingCache(tmp_path / "new").get(KEYS[:2], dim=8) == {}
    assert not (tmp_path / "new").exists()


def test_later_vectors_replace_earlier_ones(tmp_path: Path) -> None:
    filled(tmp_path)
    newer = dict(zip(KEYS[:3], unit_vectors(3, seed=1), strict=True))
    EmbeddingCache(tmp_path).put(newer)
    assert_same(EmbeddingCache(tmp_path).get(KEYS[:3], dim=8), newer)


@given(st.lists(st.tuples(st.text(), st.lists(st.text())), min_size=2, max_size=6))
def test_keys_differ_where_encoder_or_texts_differ(contents: list[tuple[str, list[str]]]) -> None:
    keys = {content_key(name, texts) for name, texts in contents}
    assert len(keys) == len({(name, tuple(texts)) for name, texts in contents})
    assert content_key(*contents[0]) == content_key(*contents[0])


@pytest.mark.parametrize(
    "damage", [b"no database at all, but text" * 100, b"SQLite format 3\x00" + b"\xff" * 5000]
)
def test_a_file_that_is_no_database_is_replaced(tmp_path: Path, damage: bytes, caplog) -> None:
    vectors = filled(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(damage)
    cache = EmbeddingCache(tmp_path)
    assert cache.get(KEYS[:3], dim=8) == {}
    assert "is damaged" in caplog.text
    cache.put(vectors)
    assert_same(EmbeddingCache(tmp_path).get(KEYS[:3], dim=8), vectors)


def test_a_truncated_file_is_replaced(tmp_path: Path) -> None:
    vectors = filled(tmp_path, 2000)
    file = tmp_path / FILE_NAME
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    cache = EmbeddingCache(tmp_path)
    cache.get(KEYS, dim=8)
    cache.put(vectors)
    assert_same(EmbeddingCache(tmp_path).get(KEYS, dim=8), vectors)


NINES, NANS = np.full(8, 9, np.float32).tobytes(), np.full(8, np.nan, np.float32).tobytes()


@pytest.mark.parametrize("blob", [b"", b"abc", NINES, NANS, "text"])
def test_a_damaged_vector_counts_as_missing(tmp_path: Path, blob: object) -> None:
    vectors = filled(tmp_path)
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("UPDATE embeddings SET vector = ? WHERE key = ?", (blob, KEYS[1]))
    connection.close()
    expected = {key: vector for key, vector in vectors.items() if key != KEYS[1]}
    assert_same(EmbeddingCache(tmp_path).get(KEYS[:3], dim=8), expected)


@pytest.mark.fault(
    "the embedding cache is damaged or locked, or the disk is full",
    "words are embedded again; 1 s is lost at most; tried again later; WARN in /diagnostics",
)
@fuzz
@given(st.lists(st.tuples(st.integers(0), st.integers(1, 255)), min_size=1, max_size=8), st.integers(0))
def test_flipped_bits_never_give_another_vector(flips: list[tuple[int, int]], cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        vectors = filled(directory, 30)
        file = directory / FILE_NAME
        content = bytearray(file.read_bytes())
        for place, bits in flips:
            content[place % len(content)] ^= bits
        file.write_bytes(content[: len(content) - cut % (2 * len(content)) if cut % 3 == 0 else None])
        cache = EmbeddingCache(directory)
        for key, vector in cache.get(KEYS[:40], dim=8).items():
            np.testing.assert_array_equal(vector, vectors[key])
        cache.put(vectors)
        assert_same(cache.get(KEYS[:40], dim=8), vectors)


def test_every_damaged_bit_of_a_vector_is_found(tmp_path: Path) -> None:
    vectors = filled(tmp_path, 1)
    file = tmp_path / FILE_NAME
    content = file.read_bytes()
    start = content.index(vectors[KEYS[0]].tobytes())
    for place in range(start, start + 40):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            file.write_bytes(damaged)
            assert EmbeddingCache(tmp_path).get(KEYS[:1], dim=8) == {}


def test_arrays_come_back_and_damaged_ones_count_as_missing(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    arrays = {"tokens": np.arange(6, dtype=np.float16).reshape(2, 3), "size": np.array([3, 4])}
    cache.put_arrays("a", arrays)
    found = EmbeddingCache(tmp_path).get_arrays("a")
    assert found is not None and found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert cache.get_arrays("b") is None
    (file,) = (tmp_path / "examples").iterdir()
    content = file.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 4
        file.write_bytes(damaged)
        assert cache.get_arrays("a") is None
        file.write_bytes(content[:place])
        assert cache.get_arrays("a") is None


@pytest.mark.fault(
    "the embedding cache is damaged or locked, or the disk is full",
    "words are embedded again; 1 s is lost at most; tried again later; WARN in /diagnostics",
)
def test_a_lock_delays_little_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    assert cache_module.LOCK_S <= 1
    monkeypatch.setattr(cache_module, "LOCK_S", 0.02)
    vectors = filled(tmp_path)
    fresh = dict(zip(KEYS[3:6], unit_vectors(3, seed=1), strict=True))
    cache = EmbeddingCache(tmp_path)
    other = sqlite3.connect(tmp_path / FILE_NAME)
    other.execute("BEGIN EXCLUSIVE")
    assert cache.get(KEYS[:6], dim=8) == {}
    assert "locked" in cache.problem
    cache.put(fresh)  # Does not wait: the file is left alone for a while.
    assert_same(cache.get(KEYS[:6], dim=8), fresh)
    other.rollback()
    other.close()
    assert cache.get(KEYS[:3], dim=8) == {}
    monkeypatch.setattr(cache, "_next_try", 0.0)  # The while is over.
    assert_same(cache.get(KEYS[:6], dim=8), vectors | fresh)
    assert cache.problem == ""
    assert_same(EmbeddingCache(tmp_path).get(KEYS[:6], dim=8), vectors | fresh)
    assert caplog.text.count("cannot be read from") == 1


@pytest.mark.fault(
    "the embedding cache is damaged or locked, or the disk is full",
    "words are embedded again; 1 s is lost at most; tried again later; WARN in /diagnostics",
)
def test_a_full_disk_costs_nothing_once_there_is_room(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(cache_module, "RETRY_S", 0.0)
    filled(tmp_path)
    cache = EmbeddingCache(tmp_path)
    more = dict(zip(KEYS[:500], unit_vectors(500, dim=64), strict=True))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        cache.put(more)
        cache.put({})
        cache.put_arrays("a", {"many": np.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "cannot be written to" in cache.problem
    assert caplog.text.count("cannot be written to") == 1
    assert_same(cache.get(KEYS[:500], dim=64), more)
    assert_same(EmbeddingCache(tmp_path).get(KEYS[:500], dim=64), more)
    assert cache.problem == ""
    assert not list((tmp_path / "examples").iterdir())


def test_vectors_of_another_width_count_as_missing(tmp_path: Path) -> None:
    filled(tmp_path)
    cache = EmbeddingCache(tmp_path)
    assert len(cache.get(KEYS[:3], dim=8)) == 3
    assert cache.get(KEYS[:3], dim=16) == {}


def test_without_a_place_on_disk_memory_serves_and_one_warning_says_so(tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = EmbeddingCache(tmp_path / "file")
    vectors = dict(zip(KEYS[:3], unit_vectors(3), strict=True))
    for key, vector in vectors.items():
        cache.put({key: vector})
    assert_same(cache.get(KEYS[:4], dim=8), vectors)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "cannot be written to" in warnings[0] and "OVS_ROS_CACHE" in warnings[0]


def test_a_place_that_cannot_even_be_looked_at_leaves_memory(tmp_path: Path, caplog) -> None:
    # As a folder of another user would be, but for root too.
    cache = EmbeddingCache(tmp_path / ("long" * 100))
    assert cache.get(KEYS[:3], dim=8) == {}
    assert "cannot be read from" in caplog.text
    vectors = dict(zip(KEYS[:3], unit_vectors(3), strict=True))
    cache.put(vectors)
    assert_same(cache.get(KEYS[:4], dim=8), vectors)


def test_a_table_of_another_form_is_left_alone(tmp_path: Path, monkeypatch, caplog) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("CREATE TABLE embeddings (other TEXT)")
    connection.close()
    cache = EmbeddingCache(tmp_path)
    assert cache.get(KEYS[:3], dim=8) == {}
    assert "cannot be read from" in caplog.text
    monkeypatch.setattr(cache, "_next_try", 0.0)
    cache.put(dict(zip(KEYS[:3], unit_vectors(3), strict=True)))
    assert "cannot be written to" in cache.problem
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        assert connection.execute("SELECT other FROM embeddings").fetchall() == []
    connection.close()


def test_processes_write_at_the_same_time(tmp_path: Path) -> None:
    script = (
        "import sys, numpy as np\n"
        "from ovs_ros.vocabulary import cache as module\n"
        "from ovs_ros.vocabulary.cache import EmbeddingCache, content_key\n"
        "module.RETRY_S = 0.0\n"
        "cache, first = EmbeddingCache(sys.argv[1]), int(sys.argv[2])\n"
        "for i in range(first, first + 100):\n"
        "    cache.put({content_key('encoder', [str(i)]): np.eye(8, dtype=np.float32)[i % 8]})\n"
        "while cache.problem:\n"
        "    cache.put({})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, tmp_path, str(i)]) for i in (0, 50, 100)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    found = EmbeddingCache(tmp_path).get(KEYS, dim=8)
    assert_same(found, {key: np.eye(8, dtype=np.float32)[i % 8] for i, key in enumerate(KEYS[:200])})


def test_threads_share_one_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "RETRY_S", 0.0)
    cache = EmbeddingCache(tmp_path)
    vectors = unit_vectors(200)
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for i in range(first, 200, 4):
                cache.put({KEYS[i]: vectors[i]})
                cache.get(KEYS[:200], dim=8)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert errors == []
    cache.put({})
    assert_same(EmbeddingCache(tmp_path).get(KEYS, dim=8), dict(zip(KEYS, vectors, strict=False)))


def test_twenty_thousand_vectors_load_quickly(tmp_path: Path) -> None:
    keys = [content_key("encoder", [str(i)]) for i in range(20_000)]
    vectors = unit_vectors(20_000, dim=256)
    EmbeddingCache(tmp_path).put(dict(zip(keys, vectors, strict=True)))
    start = time.process_time()
    assert len(EmbeddingCache(tmp_path).get(keys, dim=256)) == 20_000
    assert time.process_time() - start < 2.0  # 0.2 s on an idle core


def test_default_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OVS_ROS_CACHE", raising=False)
    assert default_directory() == platformdirs.user_cache_path("ovs_ros")
    monkeypatch.setenv("OVS_ROS_CACHE", str(tmp_path))
    filled(tmp_path)
    assert len(EmbeddingCache().get(KEYS[:3], dim=8)) == 3
