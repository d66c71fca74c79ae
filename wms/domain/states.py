"""State machines as tables: which move leads from which state to which, and how a refusal is worded.

The database refuses the same moves, under the lock that makes the answer true; the tables here are what clients are
told, and the live tests hold the database to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class IllegalMove(Exception):
    """A move that the present state does not have; the text names the state and what is allowed."""

    def __init__(self, text: str, state: str) -> None:
        super().__init__(text)
        self.state = state


@dataclass(frozen=True, slots=True)
class Machine:
    """The life of one kind of thing: `moves` maps each state to its moves, and each of these to the next state."""

    noun: str
    moves: Mapping[str, Mapping[str, str]]

    @property
    def actions(self) -> frozenset[str]:
        """Every move that some state has."""
        return frozenset(action for moves in self.moves.values() for action in moves)

    def allowed(self, state: str) -> tuple[str, ...]:
        """The moves that `state` has, in the table's order. Raises KeyError for an unknown state."""
        return tuple(self.moves[state])

    def sources(self, action: str) -> tuple[str, ...]:
        """The states that have the move `action`, in the table's order."""
        return tuple(state for state, moves in self.moves.items() if action in moves)

    def after(self, state: str, action: str) -> str:
        """The state after a move. Raises IllegalMove, KeyError for an unknown state."""
        try:
            return self.moves[state][action]
        except KeyError:
            raise IllegalMove(self.refusal(state, action), state) from None

    def refusal(self, state: str, action: str, identifier: object = "") -> str:
        """Why `action` is refused in `state`, and what would be allowed."""
        name = f"{self.noun} {identifier}".rstrip()
        allowed = ", ".join(self.allowed(state)) or "nothing"
        return (
            f"{name} is {state}: {action} needs {' or '.join(self.sources(action))}; "
            f"allowed in {state}: {allowed}"
        )
