import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[clip]')")

from ovs_ros.encoders.clip.grid_cache import KEPT, GridCache  # noqa: E402


def make(calls):
    def of(grid, like):
        calls.append((grid, like.dtype))
        return torch.full(grid, 1.0, dtype=like.dtype, device=like.device)

    return of


def test_a_grid_is_made_once_for_each_dtype():
    calls = []
    cache = GridCache(make(calls))
    like = torch.zeros(1)
    assert cache((2, 3), like) is cache((2, 3), like)
    assert cache((2, 3), like.bfloat16()).dtype == torch.bfloat16
    assert calls == [((2, 3), torch.float32), ((2, 3), torch.bfloat16)]


def test_the_grids_used_last_are_kept():
    calls = []
    cache, like = GridCache(make(calls)), torch.zeros(1)
    for rows in range(1, KEPT + 1):
        cache((rows, 1), like)
    cache((1, 1), like)
    cache((KEPT + 1, 1), like)
    calls.clear()
    cache((1, 1), like)
    assert calls == []
    cache((2, 1), like)
    assert calls == [((2, 1), torch.float32)]


def test_what_a_capture_used_is_never_dropped(monkeypatch):
    class OnGpu:
        """Stands for a tensor on a GPU: only where it lies is looked at."""

        is_cuda, device, dtype = True, torch.device("cpu"), torch.float32

    capturing = False
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    calls = []
    cache = GridCache(make(calls))
    warm = cache((1, 1), OnGpu())
    capturing = True
    assert cache((1, 1), OnGpu()) is warm
    first = cache((9, 9), OnGpu())
    assert cache((9, 9), OnGpu()) is not first  # made during the capture: holds nothing yet
    capturing = False
    for rows in range(2, KEPT + 3):
        cache((rows, 1), OnGpu())
    assert cache((1, 1), OnGpu()) is warm


def test_what_an_export_makes_is_not_kept():
    calls = []
    cache = GridCache(make(calls))

    class Module(torch.nn.Module):
        def forward(self, images):
            return cache((2, 2), images) + images

    torch.export.export(Module(), (torch.zeros(2, 2),), strict=False)
    assert torch.equal(cache((2, 2), torch.zeros(1)), torch.ones(2, 2))
