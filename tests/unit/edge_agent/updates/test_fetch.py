from random import Random

import pytest

from edge_agent.errors import DownloadFailed
from edge_agent.settings import UpdateSettings
from edge_agent.updates.fetch import HttpFetcher, download
from shared import bundle
from shared.errors import BundleError, StorageFull
from shared.messages import BundleReference
from tests.harness import free_port
from tests.sim.clock import SimulatedClock
from tests.sim.cloud import BundleServer
from tests.sim.disk import fill, small_disk
from tests.sim.fetcher import SimulatedFetcher

URL = "http://files/v2.bundle"
DATA = bytes(range(256)) * 40  # 10,240 bytes
SIZE, SHA256 = len(DATA), bundle.sha256(DATA)


class Bench:
    def __init__(self, target, **settings):
        self.fetcher = SimulatedFetcher({URL: DATA})
        self.target = target
        self.clock = SimulatedClock()
        self.counted = []
        self.settings = UpdateSettings(**settings)

    async def download(self, *, fetcher=None, url=URL, size=SIZE, sha256=SHA256):
        await download(
            fetcher or self.fetcher,
            BundleReference(version="v2", url=url, sha256=sha256, size_bytes=size),
            self.target,
            settings=self.settings,
            rng=Random(1),
            count_bytes=self.counted.append,
            sleep=self.clock.sleep,
        )

    @property
    def offsets(self):
        return [offset for _, offset in self.fetcher.requests]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "v2.download")


async def test_download_brings_the_whole_file(bench):
    await bench.download()
    assert bench.target.read_bytes() == DATA
    assert sum(bench.counted) == len(DATA)
    assert (bench.offsets, bench.clock.sleeps) == ([0], [])


async def test_download_goes_on_where_an_earlier_process_ended(bench):
    bench.target.write_bytes(DATA[:4000])
    await bench.download()
    assert bench.target.read_bytes() == DATA
    assert (bench.offsets, sum(bench.counted)) == ([4000], len(DATA) - 4000)


async def test_download_goes_on_where_the_connection_broke(bench):
    bench.fetcher.cut_after = [3000, 2500]
    await bench.download()
    assert bench.target.read_bytes() == DATA
    assert bench.offsets == [0, 3000, 5500]
    assert sum(bench.counted) == len(DATA)


async def test_download_of_what_is_there_already_asks_nobody(bench):
    bench.target.write_bytes(DATA)
    await bench.download()
    assert bench.offsets == []


async def test_download_waits_longer_and_longer_between_tries(bench):
    bench.fetcher.refusals = 7
    await bench.download()
    bounds = [0.5, 1, 2, 4, 8, 16, 32]
    assert len(bench.clock.sleeps) == 7
    assert all(0 <= wait <= bound for wait, bound in zip(bench.clock.sleeps, bounds, strict=True))
    assert sum(bench.clock.sleeps) > 8


async def test_download_gives_up_after_its_tries_and_keeps_what_it_has(tmp_path):
    bench = Bench(tmp_path / "f", download_tries=3)
    bench.fetcher.cut_after = [1000, 1000, 1000]
    with pytest.raises(DownloadFailed, match="given up after 3 tries"):
        await bench.download()
    assert bench.target.read_bytes() == DATA[:3000]
    assert len(bench.clock.sleeps) == 2


async def test_download_that_ends_too_early_is_tried_again_and_fails(tmp_path):
    bench = Bench(tmp_path / "f", download_tries=2)
    with pytest.raises(DownloadFailed, match="ended after 10,240 of 20,000 bytes"):
        await bench.download(size=20_000)


async def test_download_longer_than_offered_stops_at_the_limit_and_leaves_nothing(bench):
    with pytest.raises(BundleError, match="longer than the 5,500 bytes offered"):
        await bench.download(size=5500)
    assert sum(bench.counted) <= 5500
    assert not bench.target.exists()
    assert len(bench.offsets) == 1


async def test_download_with_another_hash_is_deleted(bench):
    with pytest.raises(BundleError, match="its sha256 differs"):
        await bench.download(sha256="0" * 64)
    assert not bench.target.exists()


async def test_download_starts_over_when_more_is_there_than_was_offered(bench):
    bench.target.write_bytes(DATA + b"more")
    await bench.download()
    assert bench.target.read_bytes() == DATA
    assert bench.offsets == [0]


@pytest.mark.parametrize("length", [4000, SIZE])
async def test_download_with_spoilt_bytes_on_disk_is_fetched_again_whole(bench, length):
    bench.target.write_bytes(b"\xff" * length)
    await bench.download()
    assert bench.target.read_bytes() == DATA
    assert bench.offsets[-1] == 0


async def test_download_with_spoilt_bytes_and_another_hash_ends_after_one_more_try(bench):
    bench.target.write_bytes(b"\xff" * 4000)
    with pytest.raises(BundleError, match="its sha256 differs"):
        await bench.download(sha256="0" * 64)
    assert bench.offsets == [4000, 0]


async def test_download_that_stalls_is_cut_off(tmp_path):
    bench = Bench(tmp_path / "f", download_timeout_s=0.02, download_tries=2)
    bench.fetcher.stall = True
    with pytest.raises(DownloadFailed, match="too slow"):
        await bench.download()
    assert len(bench.offsets) == 2


async def test_download_on_a_full_disk_is_storage_full(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        bench = Bench(disk / "f")
        fill(disk, leave=4096)
        with pytest.raises(StorageFull, match="free some space"):
            await bench.download()


# The real fetcher, against a real server on loopback.


@pytest.fixture
async def server():
    async with BundleServer() as server:
        server.files["b"] = DATA
        yield server


@pytest.fixture
def http(bench, server):
    async def download(**options):
        await bench.download(fetcher=HttpFetcher(), url=f"{server.url}/b", **options)

    return download


async def test_http_whole_and_by_range(bench, server, http):
    await http()
    assert bench.target.read_bytes() == DATA
    bench.target.write_bytes(DATA[:4000])
    await http()
    assert bench.target.read_bytes() == DATA
    assert server.ranges == ["", "bytes=4000-"]


async def test_http_server_error_then_success(bench, server, http):
    server.statuses = [503, 500]
    await http()
    assert bench.target.read_bytes() == DATA
    assert len(bench.clock.sleeps) == 2


async def test_http_connection_that_breaks_is_continued(bench, server, http):
    server.cut_after = [4096]
    await http()
    assert bench.target.read_bytes() == DATA
    assert server.ranges[0] == ""
    assert len(server.ranges) == 2


async def test_http_slow_server_is_waited_for(bench, server, http):
    server.chunk_delay_s = 0.02
    await http()
    assert bench.target.read_bytes() == DATA


async def test_http_missing_file_is_said(bench, server):
    bench.settings = UpdateSettings(download_tries=1)
    with pytest.raises(DownloadFailed, match="404 Not Found"):
        await bench.download(fetcher=HttpFetcher(), url=f"{server.url}/no")


async def test_http_nobody_there_is_said(bench):
    bench.settings = UpdateSettings(download_tries=1)
    with pytest.raises(DownloadFailed, match="cannot be fetched"):
        await bench.download(fetcher=HttpFetcher(), url=f"http://127.0.0.1:{free_port()}/b")


@pytest.mark.parametrize(
    "url", ["http://[::1/b", "http://host:99999/b", f"http://{'a' * 70}.example/b", "http://a..b/"]
)
async def test_http_impossible_address_is_said(bench, url):
    bench.settings = UpdateSettings(download_tries=1)
    with pytest.raises(DownloadFailed, match="cannot be fetched"):
        await bench.download(fetcher=HttpFetcher(), url=url)


async def test_http_server_that_ignores_the_range_does_not_spoil_the_file(bench, server, http):
    bench.target.write_bytes(DATA[:4000])
    server.ignore_ranges = True
    await http()
    assert bench.target.read_bytes() == DATA
