"""Fixtures of more than one file."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from cli_words import Outcome

from perfmodel.cli import progress
from perfmodel.cli.main import main


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs a command in this process; a slow machine shows no progress where a test reads standard error."""
    monkeypatch.setattr(progress, "_AFTER_S", math.inf)

    def run(*words: str) -> Outcome:
        capsys.readouterr()
        code = main(list(words))
        return Outcome(code, *capsys.readouterr())

    return run
