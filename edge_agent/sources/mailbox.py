"""What lies between a source that does not wait and an agent that may be slow: a bounded buffer, and its rule.

    feed, in a thread of its own ─► put ─► [ at most `size` items ] ─► iterated by the task's thread

`drop_oldest`: a full buffer gives up its oldest item for the newest. `block`: the feed waits for room. Both count.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Generic, TypeVar

from edge_agent.sources.context import SourceContext
from edge_agent.sources.settings import BufferOptions, WhenSlow

log = logging.getLogger(__name__)

T = TypeVar("T")
Put = Callable[[T], bool]
Feed = Callable[[Put[T]], None]

# An item wakes its taker at once; only that somebody set `stop` is found out by looking.
_LOOK_S = 0.25
_END_TIMEOUT_S = 1.0


class Mailbox(Generic[T]):
    """Thread-safe, for one feed and one taker.

    Args:
        options: how many items may wait, and what becomes of the next.
        context: told how many were given up, and how many had to wait.
    """

    def __init__(self, options: BufferOptions, context: SourceContext, stop: threading.Event) -> None:
        self._size, self._when_slow, self._stop = options.buffer, options.when_slow, stop
        self._context = context
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = self._closed = False
        self._failure: Exception | None = None

    def put(self, item: T) -> bool:
        """Add an item; False when nobody takes any more, and the feed should end."""
        dropped = 0
        with self._changed:
            if self._when_slow is WhenSlow.BLOCK and not self._room():
                return False
            if self._over():
                return False
            while len(self._items) >= self._size:
                self._items.popleft()
                dropped += 1
            self._items.append(item)
            self._changed.notify_all()
        if dropped:
            self._context.overrun(dropped)
        return True

    def end(self, failure: Exception | None = None) -> None:
        """The feed has ended; a failure comes out of the iterator, after what lies in the buffer."""
        with self._changed:
            self._ended, self._failure = True, failure
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody takes any more."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                while not self._items and not self._ended:
                    if self._over():
                        return
                    self._changed.wait(_LOOK_S)
                if self._over():
                    return
                if not self._items:
                    if self._failure is not None:
                        raise self._failure
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def _over(self) -> bool:
        return self._closed or self._stop.is_set()

    def _room(self) -> bool:
        """Wait for room, counted; False when nobody takes any more."""
        if len(self._items) < self._size:
            return True
        self._context.waited(1)
        while len(self._items) >= self._size:
            if self._over():
                return False
            self._changed.wait(_LOOK_S)
        return True


def fed(
    feed: Feed[T], options: BufferOptions, context: SourceContext, stop: threading.Event
) -> Generator[T, None, None]:
    """What `feed` puts, which runs in a thread of its own until it returns.

    Raises:
        Exception: what ended the feed, once what it had put is taken.
    """
    box: Mailbox[T] = Mailbox(options, context, stop)
    name = f"{threading.current_thread().name}-feed"
    thread = threading.Thread(target=_run, args=(feed, box), name=name, daemon=True)
    thread.start()
    try:
        yield from box
    finally:
        box.close()
        thread.join(_END_TIMEOUT_S)
        if thread.is_alive():
            log.warning("task %s: %s still waits for its device; it ends with the process", context.task, context.name)


def all_of(items: Iterable[T]) -> Feed[T]:
    """A feed that puts these, one after the other."""

    def feed(put: Put[T]) -> None:
        for item in items:
            if not put(item):
                return

    return feed


def _run(feed: Feed[T], box: Mailbox[T]) -> None:
    try:
        feed(box.put)
    except Exception as err:  # noqa: BLE001  # raised in the taker's thread: one that dies alone would look like the end
        box.end(err)
    else:
        box.end()
