"""A replica's store in a process of its own: `python store_writer.py DATABASE_URL BLOBS_URL`.

It adds batches of samples and answers them until it is killed, and says `stored ID …` once `add` has returned. `sleep`
as a third argument: it takes its turn, says `turn`, and keeps it.
"""

import asyncio
import itertools
import sys

import numpy as np

from cloud_service.storage.blobs import ObjectBlobs
from cloud_service.storage.database import open_database
from cloud_service.storage.samples import NewSample, SampleStore
from tests.sim.device import header
from tests.sim.stored import says


def payload(seq: int) -> np.ndarray:
    """Unlike every other's, so that a lost or mixed up one is seen."""
    return np.arange(seq, seq + 256, dtype=np.int32)


async def main(database_url: str, blobs_url: str, *mode: str) -> None:
    async with open_database(database_url) as database:
        if mode:
            async with database.in_turn():
                print("turn", flush=True)
                await asyncio.sleep(600)
        store = SampleStore(database, ObjectBlobs(blobs_url), near_duplicates={"digits": 0.0})
        for start in itertools.count(step=8):
            batch = [NewSample("cam-1", header(seq=seq), payload(seq)) for seq in range(start, start + 8)]
            await store.add(batch)
            print("stored", *(one.header.sample_id for one in batch), flush=True)
            await store.answer([(one.header.sample_id, says(1)) for one in batch[:4]])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
