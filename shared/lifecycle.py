"""Lifecycles as tables: (state, event) → next state, each state saved before it acts.

The table is data that fits one screen. `Runner` only walks it: save the state, run its action, look the event up,
go on, until a state without an action. What a crash leaves behind is therefore always a saved state.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from shared.errors import InvalidTransition

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)

Table = Mapping[tuple[S, E], S]


def next_state(table: Table[S, E], state: S, event: E) -> S:
    """The state that follows.

    Raises:
        InvalidTransition: the table has no such row.
    """
    try:
        return table[state, event]
    except KeyError:
        known = ", ".join(sorted(e.value for s, e in table if s == state)) or "none"
        raise InvalidTransition(f"event {event.value!r} in state {state.value!r}; it knows: {known}") from None


@dataclass(frozen=True, slots=True)
class Runner(Generic[S, E]):
    """Walks a table.

    Attributes:
        actions: what each state does; it returns the event that ended it. A state without an action is at rest.
        save: stores the state durably; called with a state before its action runs.
        max_steps: more steps than this in one walk mean that the table loops.
    """

    table: Table[S, E]
    actions: Mapping[S, Callable[[], Awaitable[E]]]
    save: Callable[[S], None]
    max_steps: int = 32

    async def run(self, state: S) -> S:
        """Walk from `state` (saved already) to a state at rest and return it.

        Raises:
            InvalidTransition: an action returned an event that the table does not know, or the walk does not end.
        """
        for _ in range(self.max_steps):
            action = self.actions.get(state)
            if action is None:
                return state
            state = next_state(self.table, state, await action())
            self.save(state)
        raise InvalidTransition(f"no rest after {self.max_steps} steps; the last state was {state.value!r}")
