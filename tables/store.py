"""The rows of one partition in RocksDB: read, and written together with the offset up to which they are true."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from rocksdict import DbClosedError, Rdict, WriteBatch

from streams.errors import CorruptStore, NotReady
from tables.rows import Change

OFFSET = b"__faust\0offset__"  # where Faust looks for it, too
ORIGIN = b"__activeset\0origin__"
WRITTEN = b"__activeset\0written__"


def batch_of(changes: Iterable[Change]) -> WriteBatch:
    """Rows that are to be written at once."""
    batch = WriteBatch(raw_mode=True)
    for key, value in changes:
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
    return batch


class Store:
    """A partition's RocksDB. No iterator over it may outlive a step of the event loop: it keeps the files locked."""

    def __init__(self, database: Rdict, condemn: Callable[[], object] = lambda: None) -> None:
        """Nothing is read yet.

        condemn: called when a file turns out to be corrupt, so that the next start sets the store aside.
        """
        self._database: Any = database
        self._condemn = condemn

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of some keys; None where there is no row.

        Raises:
            CorruptStore: a file is not as it was written.
            NotReady: the partition went. So everywhere here.
        """
        with self._judged():
            values: list[bytes | None] = self._database.get(list(keys)) if keys else []
            return values

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All rows whose keys start with a prefix, in order of their keys, from a key on."""
        key = start = max(prefix, after)
        with self._judged():
            for key, value in self._database.items(from_key=start):
                if not key.startswith(prefix):
                    return
                yield key, value
            # It is over: behind the last row, or before one that cannot be read, of which rocksdict says nothing.
            end = self._database.iter()
            end.seek(key)
            if end.valid():
                end.next()
            end.status()

    def part(self, prefix: bytes, after: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """The first so many of the rows of `scan`, or all if there are no more; in less time."""
        with self._judged():
            rows = list(islice(self._database.items(from_key=max(prefix, after)), count))
        if len(rows) == count and rows[-1][0].startswith(prefix):
            return rows
        return list(islice(self.scan(prefix, after), count))  # which sees that the end is one

    def write(self, changes: Iterable[Change], offset: int, written_ms: int | None = None) -> None:
        """Write rows at once, with the changelog's offset up to which all rows are here.

        written_ms: when Kafka took the last one; none, if it does not tell.
        """
        self.write_batch(batch_of(changes), offset, written_ms)

    def write_batch(self, batch: WriteBatch, offset: int, written_ms: int | None = None) -> None:
        """The same of rows that are in a batch already."""
        batch.put(OFFSET, str(offset).encode())
        if written_ms is not None:
            batch.put(WRITTEN, str(written_ms).encode())
        with self._judged():
            self._database.write(batch)

    @contextmanager
    def _judged(self) -> Iterator[None]:
        try:
            yield
        except DbClosedError as why:
            raise NotReady("the partition went, and its files are closed") from why
        except Exception as why:
            if "mutably borrowed" in str(why):  # rocksdict's words, and it has no class for it
                raise NotReady("the partition goes, and its files are being closed") from why
            if "Corruption" not in str(why):  # RocksDB's word; rocksdict has no class for it
                raise
            self._condemn()
            raise CorruptStore(
                f"a file of RocksDB is not as it was written ({why}): restored at the next start"
            ) from why

    @property
    def offset(self) -> int:
        """The changelog's offset up to which all rows are here; -1 if none is."""
        told = self._database.get(OFFSET)
        return -1 if told is None else int(told)

    @property
    def written_ms(self) -> int | None:
        """When Kafka took the last of the rows that are here; none, if it did not tell."""
        told = self._database.get(WRITTEN)
        return None if told is None else int(told)

    @property
    def origin(self) -> str:
        """Which changelog the rows are of; empty if that was never told."""
        return (self._database.get(ORIGIN) or b"").decode()

    @origin.setter
    def origin(self, name: str) -> None:
        self._database.put(ORIGIN, name.encode())


class Stores(Protocol):
    """The stores of a worker, one for each partition."""

    def open(self, partition: int) -> Store:
        """The store of a partition, which may be empty."""
        ...

    def set_aside(self, partition: int) -> Path:
        """Put the files of a partition's store out of the way, so that the next one is empty; where they are."""
        ...


class FaustStores:
    """The RocksDBs that Faust opens when partitions are assigned, and closes when they are revoked."""

    def __init__(self, data: Any) -> None:
        """Opens nothing yet.

        data: the store of the table (`streams.overrides.OurStore`).
        """
        self._data = data

    def open(self, partition: int) -> Store:
        """The store of a partition."""
        return Store(self._data._db_for_partition(partition), partial(self._data.condemn, partition))

    def set_aside(self, partition: int) -> Path:
        """Rename the folder of a partition's store; the one that was renamed before is gone then."""
        self._data._dbs.pop(partition).close()
        aside: Path = self._data.set_aside(partition)
        return aside
