"""What a device has left, and where each number came from."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reading:
    """Hold one number that limits memory.

    Attributes:
        n_bytes: What this limit leaves to take now.
        source: The file, call or setting that it was read from.
        limit_bytes: The limit itself, whatever of it is taken; for people.
    """

    n_bytes: int
    source: str
    limit_bytes: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Free:
    """Hold what can be taken on a device now: the least of its readings.

    Attributes:
        readings: All limits that were found; at least one.
        fraction: The part of the least reading that a call takes by default.
        reserve_bytes: What a call leaves of that part by default.
    """

    readings: tuple[Reading, ...]
    fraction: float
    reserve_bytes: int = 0

    @property
    def least(self) -> Reading:
        """Return the reading that binds."""
        return min(self.readings, key=lambda reading: reading.n_bytes)

    @property
    def default_bytes(self) -> int:
        """Return the default budget; never below 1."""
        return max(1, int(self.fraction * self.least.n_bytes) - self.reserve_bytes)
