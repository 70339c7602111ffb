"""Fixtures of more than one file."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cli_words import Outcome

from perfmodel.cli.main import main


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def run(*words: str) -> Outcome:
        capsys.readouterr()
        code = main(list(words))
        return Outcome(code, *capsys.readouterr())

    return run
