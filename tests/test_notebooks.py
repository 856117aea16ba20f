import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import TINY
from segtune.config import entry
from segtune.runs import identity
from segtune.runs.sweep import write_sweep
from segtune.training import build
from segtune.training.run import train

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


SENTENCE = {  # the answer, with its number
    "00_one_run": r"\b2 epochs\b.*\bDice\b.* \d\.\d{3}\b",
    "01_study": r"\bDice\b.*\bbce(_dice)?\b.*\(\d\.\d{3}\)",
    "02_lambda": r" \d\.\d{3}\b.*\blambda 0\.001\b",
    "03_learning_rate": r"\bpatient is P\d\d\b.*\bDice\b.* \d\.\d{3}\b",
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A small sweep: two losses without a penalty, one with."""
    root = tmp_path_factory.mktemp("notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        runs = []
        for overrides in (["loss=bce"], ["loss=bce_dice"], ["loss=bce_dice", "reg=l2", "reg.lambda=0.001"]):
            cfg = entry.compose([*TINY, *overrides])
            run = identity.run_id(entry.plain(cfg))
            train(build.experiment(cfg), root / "outputs" / "runs" / run)
            runs.append({"run_id": run, "overrides": overrides})
    (root / "outputs" / "small").mkdir()
    write_sweep(root / "outputs" / "small", command=[], runs=runs)
    return root


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:ResourceWarning")  # Jupyter's own
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_on_a_small_sweep_and_answer_in_a_figure_and_a_sentence(path, sweep):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(sweep)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any(re.search(SENTENCE[path.stem], output.get("text", "")) for output in outputs)
