import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from media.files import write_json_whole, write_text_whole, write_whole

ROOT = Path(__file__).parents[2]


@pytest.fixture
def umask_027() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_replaces_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old, and longer than the new one")
    write_whole(path, lambda file: file.write(b"new") and None)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_while_writing_keeps_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"half of the n")
        (temporary,) = set(tmp_path.iterdir()) - {path}
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".tmp")
        raise error

    with pytest.raises(error):
        write_whole(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_failure_between_writing_and_renaming_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_text_whole(path, "new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_kill_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    program = (
        "import os, signal, sys; from pathlib import Path; from media.files import write_whole\n"
        "def write(file):\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_whole(Path(sys.argv[1]), write)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text_whole(tmp_path / "none" / "a.txt", "new")


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")
@pytest.mark.usefixtures("umask_027")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    write_text_whole(tmp_path / "a.txt", "new")
    (tmp_path / "b.txt").write_text("new")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


def test_a_name_of_full_length(tmp_path: Path) -> None:
    write_text_whole(tmp_path / ("n" * 255), "new")
    assert len(list(tmp_path.iterdir())) == 1


def test_text_is_utf8_with_its_own_line_ends(tmp_path: Path) -> None:
    write_text_whole(tmp_path / "a.txt", "é\n\r\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n\r\n"


def test_json_keeps_order_and_turns_nonfinite_numbers_into_null(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json_whole(path, {"b": [1.5, float("nan")], "a": {"x": (float("inf"), 3)}, "é": None})
    assert path.read_text() == (
        '{\n  "b": [\n    1.5,\n    null\n  ],\n  "a": {\n    "x": [\n      null,\n      3\n    ]\n  },\n'
        '  "\\u00e9": null\n}\n'
    )
    with pytest.raises(TypeError):
        write_json_whole(path, {"a": object()})
    assert list(json.loads(path.read_text())) == ["b", "a", "é"]


def test_importing_files_imports_neither_torch_nor_numpy() -> None:
    program = "import sys, media.files; assert not {'torch', 'numpy', 'PIL', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
