"""How a SQLite file is opened by several at once."""

import threading
from pathlib import Path

from sqlalchemy import create_engine

from cloud_service.storage.sqlite import prepare


def test_new_file_that_several_open_at_once_is_opened_by_all(tmp_path):
    # One round in ten finds two in the moment in which SQLite lets neither wait.
    for number in range(40):
        assert opened_at_once(tmp_path / f"{number}.db", by=4) == []


def opened_at_once(file: Path, *, by: int) -> list[BaseException]:
    """What went wrong."""
    together, faults = threading.Barrier(by), []

    def start() -> None:
        engine = create_engine(f"sqlite+pysqlite:///{file}", connect_args={"isolation_level": None})
        prepare(engine)
        together.wait(10)
        try:
            with engine.execution_options(writes=True).begin() as connection:
                connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (x)")
        except Exception as err:  # noqa: BLE001  # whatever it is, the test says it
            faults.append(err)
        finally:
            engine.dispose()

    threads = [threading.Thread(target=start) for _ in range(by)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return faults
