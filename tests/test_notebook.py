"""The notebook, cell by cell in a Jupyter kernel, with a small model in place of its own."""

import nbformat
import pytest
from conftest import ROOT, SMALL
from nbclient import NotebookClient

REPLACED = {  # what would take minutes, or write into this repository
    "%pip install": "# pip install",
    '"storybook_bpe1024", "out/notebook"': "{data!r}, {out!r}",
    "--vocab_size=1024": "--vocab_size=300 --max_stories=300",
    "config/storybook_1m.py": " ".join(["--max_iters=2", *SMALL]),
    "--temperature=0.6": "--max_new_tokens=20",
}


@pytest.mark.slow
def test_the_notebook_prepares_trains_samples_and_exports(tmp_path):
    notebook = nbformat.read(ROOT / "notebook.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) == 4
    places = {"data": str(tmp_path / "data"), "out": str(tmp_path / "notebook")}
    for text, small in REPLACED.items():
        assert sum(cell.source.count(text) for cell in cells) == 1
        for cell in cells:
            cell.source = cell.source.replace(text, small.format(**places))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": ROOT}}).execute()
    printed = ["".join(out.get("text", "") for out in cell.outputs) for cell in cells]
    assert "prepared" in printed[0]
    assert "done in" in printed[1]
    assert any("image/png" in out.get("data", {}) for out in cells[1].outputs)
    assert "Once upon a time" in printed[2]
    assert (tmp_path / "notebook" / "export" / "notebook.html").is_file()
    assert (tmp_path / "notebook" / "export" / "hf" / "model.safetensors").is_file()
