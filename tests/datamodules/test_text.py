from pathlib import Path

import pytest
import torch

from datamodules.order import positions
from datamodules.text import Text

WORDS = "the café is open; the kitchen is not.\n" * 10
SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare.txt"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text(WORDS, encoding="utf-8")
    return tmp_path / "words.txt"


def test_the_alphabet_is_known_at_once(path: Path) -> None:
    data = Text(str(path), length=7)
    assert data.alphabet == "".join(sorted(set(WORDS)))
    assert data.vocabulary_size == len(data.alphabet)
    assert (data.data_shape, data.num_classes) == ((7,), 0)


def test_decoding_undoes_encoding(path: Path) -> None:
    data = Text(str(path), length=7)
    assert data.decode(data.encode("café")) == "café"
    assert data.decode(data.encode(WORDS)) == WORDS
    with pytest.raises(ValueError, match="'Z'"):
        data.encode("Z")


def test_the_last_tenth_is_held_out_in_windows_that_do_not_overlap(path: Path) -> None:
    data = Text(str(path), length=7)
    kept = len(WORDS) - len(WORDS) // 10
    assert data.size("train") == kept - 7 + 1
    assert data.size("test") == (len(WORDS) - kept) // 7
    x, y = data.examples("test", range(data.size("test")))
    assert (x.dtype, y.dtype) == (torch.int64, torch.int64)
    assert not y.any()
    held_out = WORDS[kept:]
    assert "".join(map(data.decode, x)) == held_out[: len(x) * 7]
    last, _ = data.examples("train", [kept - 7])
    assert data.decode(last[0]) == WORDS[kept - 7 : kept]


def test_training_windows_begin_where_the_order_says(path: Path) -> None:
    data = Text(str(path), length=7, batch_size=4, seed=3)
    data.setup("fit")
    x, _ = next(iter(data.train_dataloader()))
    starts = positions(3, 0, 4, data.train_size).tolist()
    assert [data.decode(row) for row in x] == [WORDS[start : start + 7] for start in starts]


def test_a_run_goes_on_with_the_same_text_only(path: Path, tmp_path: Path) -> None:
    elsewhere, other = tmp_path / "elsewhere.txt", tmp_path / "other.txt"
    elsewhere.write_text(WORDS, encoding="utf-8")
    other.write_text(WORDS.replace("open", "shut"), encoding="utf-8")
    first, moved, changed = (Text(str(file), length=7) for file in (path, elsewhere, other))
    for data in (first, moved, changed):
        data.setup()
    assert first.settings() == moved.settings()
    assert first.fingerprint == moved.fingerprint
    assert first.settings() != changed.settings()
    assert first.fingerprint != changed.fingerprint


def test_what_is_wrong_is_said_in_a_line(path: Path, tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.txt").touch()
    for name, settings, message in [
        ("none.txt", {}, r"none\.txt"),
        ("bytes.txt", {}, r"bytes\.txt: not UTF-8"),
        ("empty.txt", {}, r"empty\.txt: the file is empty"),
        ("words.txt", {"length": 100}, "test part has 38 characters"),
        ("words.txt", {"length": 1}, "length: must be at least 2"),
        ("words.txt", {"test_share": 1.0}, "test_share"),
        ("none.txt", {"url": "http://example.org"}, "data.url"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            Text(str(tmp_path / name), **settings)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_character(path: Path) -> None:
    plain = Text(str(path), length=4)
    path.write_text(WORDS, encoding="utf-8-sig")
    marked = Text(str(path), length=4)
    assert marked.alphabet == plain.alphabet
    assert marked.settings() == plain.settings()


def test_a_missing_file_is_downloaded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import urllib.request

    asked = []

    def answer(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(WORDS.encode())

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    for _ in range(2):
        data = Text(str(tmp_path / "new" / "words.txt"), length=7, url="https://example.org/words.txt")
        assert data.train_size > 0
    assert asked == ["https://example.org/words.txt"]


@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="needs tinyshakespeare.txt")
def test_the_real_text() -> None:
    data = Text(str(SHAKESPEARE), length=128)
    assert data.vocabulary_size == 65
    assert data.train_size == 1_003_855 - 128 + 1
    assert data.decode(data.examples("train", [0])[0][0]).startswith("First Citizen:")
