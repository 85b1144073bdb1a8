"""The tutorials: their code runs in order, and prints what the text below it says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", re.DOTALL)


@pytest.mark.parametrize("name", ["tutorial_numpy_to_cnn", "tutorial_gradients"])
def test_tutorial(name):
    blocks = BLOCK.findall((DOCS / f"{name}.md").read_text())
    assert len(blocks) >= 9 and all(expected for _, expected in blocks)
    names = {"__name__": name}
    for code, expected in blocks:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            exec(compile(code, name, "exec"), names)
        assert shown.getvalue() == expected, code
