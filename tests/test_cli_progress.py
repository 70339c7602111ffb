"""What long work says of itself on standard error."""

from __future__ import annotations

import pytest

from perfmodel.cli import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds since the work began, to be set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_short_work_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    show = progress.progress("layers")
    for done in range(11):
        clock[0] = 0.09 * done
        show(done, 10)
    assert capsys.readouterr().err == ""


def test_long_work_says_rate_and_time_left_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Half a second for each of 40: a line every two seconds of it, and the last."""
    show = progress.progress("layers")
    for done in range(41):
        clock[0] = 0.5 * done
        show(done, 40)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "perfmodel: 4 of 40 layers, 2.0 a second, 18 s left"
    assert lines[-1] == "perfmodel: 40 of 40 layers, 2.0 a second, 0 s left"
    assert len(lines) == 10


def test_what_was_done_before_counts_in_no_rate(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    show = progress.progress("rows")
    show(90, 100)
    clock[0] = 5.0
    show(95, 100)
    assert capsys.readouterr().err == "perfmodel: 95 of 100 rows, 1.0 a second, 5 s left\n"
