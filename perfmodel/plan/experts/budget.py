"""What a search may spend: units of work, the same on every machine, and a time limit that only guards."""

from __future__ import annotations

import time

__all__ = ["Budget"]


class Budget:
    """Counts work and remembers which limit ended it (`stopped_by`: None, "work_limit" or "time_limit").

    A unit of work is one packing searched or one program solved.
    """

    def __init__(self, work_limit: int | None = None, time_limit_s: float | None = None) -> None:
        self.work_limit = work_limit
        self.deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
        self.spent = 0
        self.stopped_by: str | None = None

    def spend(self, units: int = 1) -> bool:
        """Take units of work; False, and for good, once a limit is reached."""
        if self.stopped_by is None:
            if self.work_limit is not None and self.spent + units > self.work_limit:
                self.stopped_by = "work_limit"
            elif self.deadline is not None and time.monotonic() > self.deadline:
                self.stopped_by = "time_limit"
            else:
                self.spent += units
        return self.stopped_by is None

    def seconds_left(self) -> float | None:
        """What the guard leaves to a solver."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.01)

    def note(self, stopped_by: str | None) -> None:
        """Remember that a solver was ended by a limit of its own."""
        if stopped_by == "time_limit" and self.stopped_by is None:
            self.stopped_by = stopped_by
