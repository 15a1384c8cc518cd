"""Text: windows of the characters of one file. Each character is a token."""

import hashlib
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.base import Batch, DataModule, Split, at_least, one_line
from media.files import write_whole


@dataclass(frozen=True, eq=False)
class Windows:
    """Pieces of equal length of a sequence of tokens, int32 (size,): int64 (n, length), and labels 0, for n indices.

    The stride is the number of tokens from the start of a piece to that of the next.
    """

    tokens: Tensor
    length: int
    stride: int

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - self.length) // self.stride + 1)

    def __getitem__(self, indices: Tensor) -> Batch:
        places = indices[:, None] * self.stride + torch.arange(self.length)
        return self.tokens[places].to(torch.int64), torch.zeros(len(indices), dtype=torch.int64)


class Text(DataModule):
    """Windows of a UTF-8 file's characters: x int64 (N, length), tokens from 0 to `vocabulary_size` - 1.

    A training example is the window that begins at its index, which may be any place in the file's first part; an epoch
    has each once. The test split is the file's last part, cut into windows that do not overlap. The alphabet is every
    character in the file, in the order of code points.

    Args:
        path: The file.
        length: Characters in a window.
        url: Where the file is downloaded from if it is missing.
        test_share: The share of the file, at its end, that is held out.
        batch_size: Windows in a step, over all ranks.
        seed: Of the order.
        num_workers: Loading processes per rank. 0 is fastest: a batch is one gather from memory.

    Raises:
        FileNotFoundError: The file is missing and cannot be downloaded; the message names the path.
        ValueError: A setting is out of range, or the file is too short or not text; the message names it.
    """

    loading_only: ClassVar[frozenset[str]] = DataModule.loading_only | {"path", "url"}

    def __init__(
        self,
        path: str,
        length: int = 256,
        url: str | None = None,
        test_share: float = 0.1,
        batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        at_least("length", length, 2)
        if not 0 < test_share < 1:
            raise ValueError(f"test_share: must lie between 0 and 1, got {test_share}")
        super().__init__((length,), 0, (), batch_size, seed, num_workers)
        self.path, self.length, self.url, self.test_share = path, length, url, test_share
        # The model is built before `setup`, and needs the alphabet.
        text = self._read()
        self.alphabet: str = "".join(sorted(set(text)))
        self.vocabulary_size = len(self.alphabet)
        tokens = self.encode(text)
        self._hash = hashlib.sha256(text.encode()).hexdigest()
        kept = len(tokens) - int(len(tokens) * test_share)
        self._splits: dict[Split, Windows] = {
            "train": Windows(tokens[:kept], length, 1),
            "test": Windows(tokens[kept:], length, length),
        }
        for split, windows in self._splits.items():
            if not len(windows):
                raise ValueError(
                    f"{path}: its {split} part has {len(windows.tokens)} characters, fewer than data.length {length}; "
                    "lower that, or name a longer text"
                )

    def encode(self, text: str) -> Tensor:
        """The tokens of a text, int32 (characters,). Raises ValueError for a character that is not in the alphabet."""
        number = {character: token for token, character in enumerate(self.alphabet)}
        try:
            return torch.tensor([number[character] for character in text], dtype=torch.int32)
        except KeyError as error:
            raise ValueError(f"{self.path}: its alphabet lacks the character {error.args[0]!r}") from None

    def decode(self, tokens: Tensor) -> str:
        """The text of tokens (length,)."""
        return "".join(self.alphabet[token] for token in tokens.tolist())

    def settings(self) -> dict[str, Any]:
        """The settings, with the hash of the text, because the file's content decides and not its place."""
        return {**super().settings(), "sha256": self._hash}

    def identity(self) -> tuple[object, ...]:
        return (self._hash, self.test_share)

    def dataset(self, split: Split) -> Windows:
        self.require(split)
        return self._splits[split]

    def _read(self) -> str:
        path = Path(self.path)
        if not path.exists() and self.url is not None:
            self._download(path, self.url)
        try:
            text = path.read_bytes().decode("utf-8-sig")  # without the byte order mark that some editors write
        except OSError as error:
            raise FileNotFoundError(f"data.path {path}: {error.strerror}; name a text file") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 text ({one_line(error)}); name another file, or convert it") from error
        if not text:
            raise ValueError(f"{path}: the file is empty")
        return text

    @staticmethod
    def _download(path: Path, url: str) -> None:
        if not url.startswith("https://"):
            raise ValueError(f"data.url: must begin with https://, got {url}")
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                content: bytes = answer.read()
            path.parent.mkdir(parents=True, exist_ok=True)
        except (OSError, HTTPException) as error:
            raise FileNotFoundError(
                f"data.path {path}: it is missing, and the download failed ({one_line(error)}); put it there from {url}"
            ) from error
        write_whole(path, lambda file: file.write(content))
