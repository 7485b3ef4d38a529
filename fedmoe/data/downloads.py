"""Downloads that give up: a file arrives whole and with the right hash, or an error says that it cannot be had."""

import errno
import hashlib
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPResponse
from pathlib import Path

from fedmoe.data.storage import new_file
from fedmoe.errors import DataError

__all__ = ["DataMissingError", "download", "download_or_explain", "has_md5"]

CHUNK = 1 << 18


class DataMissingError(DataError):
    """Data that is neither here nor to be downloaded; a file that is here but broken is a plain `DataError`."""


def has_md5(path: Path, md5: str) -> bool:
    """Returns whether the file's MD5 is `md5`: a check of the transfer, as its publisher gives it, not of trust."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5


class _Transfer(threading.Thread):
    """Fetches one file; a daemon, so that a call which never returns (looking up a name, say) holds nobody up."""

    def __init__(self, url: str, draft: Path, timeout: float) -> None:
        super().__init__(daemon=True, name=f"download {url}")
        self.url, self.draft, self.timeout = url, draft, timeout
        self.last_answer = time.monotonic()
        self.given_up = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        """Writes what arrives to the draft, and notes when it last arrived."""
        try:
            request = urllib.request.Request(self.url, headers={"User-Agent": "fedmoe"})  # noqa: S310 - built-in urls
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:  # noqa: S310
                self.last_answer = time.monotonic()
                self._write(answer)
        except Exception as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it is an open answer too
            self.error = error

    def _write(self, answer: HTTPResponse) -> None:
        # "r+b" does not make the file anew: an answer that comes after all was given up finds no draft and leaves none.
        with self.draft.open("r+b") as file:
            while not self.given_up.is_set() and (piece := answer.read1(CHUNK)):
                file.write(piece)
                self.last_answer = time.monotonic()


def download(url: str, target: Path, *, md5: str, timeout: float) -> None:
    """Puts the file at `url` to `target`, whole and with the hash `md5`.

    One try, no mirrors. A socket's own timeout bounds neither the look-up of a name nor a row of addresses that are
    tried in turn, hence a thread that is watched.

    Args:
        url: where it lies.
        target: where it goes; its folder is made.
        md5: its hash as the publisher gives it.
        timeout: seconds without an answer before it is given up.

    Raises:
        DataMissingError: no answer, an answer that is an error, or another file than the wanted one.
        DataError: `target` cannot be written.
    """
    with new_file(target) as draft:
        transfer = _Transfer(url, draft, timeout)
        transfer.start()
        while transfer.is_alive():
            transfer.join(0.05)
            if time.monotonic() - transfer.last_answer > timeout:
                transfer.given_up.set()
                raise DataMissingError(f"no answer from {url} for {timeout:g} s")
        if isinstance(transfer.error, OSError) and transfer.error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise transfer.error
        if transfer.error is not None:
            raise DataMissingError(f"{url} gave no file ({transfer.error})") from transfer.error
        if not has_md5(draft, md5):
            raise DataMissingError(f"{url} gave another file than the one with MD5 {md5}")


def download_or_explain(name: str, files: dict[Path, tuple[str, str]], *, timeout: float, hint: str = "") -> None:
    """Downloads those of `files` that are not there yet.

    Args:
        name: the data set's name.
        files: where each file goes -> its url and MD5.
        timeout: seconds without an answer before all is given up.
        hint: another way to the files, if there is one.

    Raises:
        DataMissingError: one of them cannot be had; the message says where to put which file.
    """
    try:
        for target, (url, md5) in files.items():
            if not target.is_file():
                download(url, target, md5=md5, timeout=timeout)
    except DataError as error:
        folders = sorted({str(target.parent) for target in files})
        urls = ", ".join(url for url, _ in files.values())
        raise DataMissingError(
            f"data set '{name}' must lie in {' or '.join(folders)} or be downloadable: there is no "
            f"{', '.join(target.name for target in files)}, and {error}; hint: put "
            f"{'it' if len(files) == 1 else 'them'} there by hand, from {urls}{hint}"
        ) from error
