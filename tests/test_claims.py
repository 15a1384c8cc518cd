"""The measured columns of docs/claims.md are what their command prints."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(DOCS / "programs" / "make_claims.py"), run_name="__main__")
    printed = capsys.readouterr().out.strip()
    page = (DOCS / "claims.md").read_text()
    assert printed in page
    for row in printed.splitlines()[2:]:
        together = row.split(" | ")[3]
        assert page.count(together) == 3, "in the command's table, and beside the claim as published and as measured"
