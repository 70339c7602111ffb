"""Every notebook runs from top to bottom in a fresh kernel, and is kept without outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

import perfmodel as pm

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path) -> None:
    import nbformat

    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


def test_a_notebook_shows_an_explanation_as_its_equation() -> None:
    assert pm.explain("training_flops_6nd")._repr_latex_() == r"$\displaystyle F = 6 N D$"


@pytest.mark.heavy
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Proactor event loop")
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    # IPython warns, and a warning is an error here, where it cannot write below the home folder.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    NotebookClient(nbformat.read(path, as_version=4), timeout=300, kernel_name="python3").execute()
