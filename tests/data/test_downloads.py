"""A download ends in the whole, right file or in a clear error, and in no more time than it was given."""

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedmoe.data.downloads import DataMissingError, download, download_or_explain
from fedmoe.errors import DataError

CONTENT = bytes(range(256)) * 3000
MD5 = hashlib.md5(CONTENT).hexdigest()
STALL = threading.Event()


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/silent":
            STALL.wait(20)
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if self.path == "/stalls":
            self.wfile.write(CONTENT[:1000])
            self.wfile.flush()
            STALL.wait(20)
        elif self.path == "/short":
            self.wfile.write(CONTENT[:1000])
        elif self.path == "/other":
            self.wfile.write(CONTENT[::-1])
        elif self.path == "/slow":  # longer than the timeout in all, but never silent for so long
            for start in range(0, len(CONTENT), len(CONTENT) // 6):
                self.wfile.write(CONTENT[start : start + len(CONTENT) // 6])
                self.wfile.flush()
                time.sleep(0.2)
        else:
            self.wfile.write(CONTENT)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    STALL.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    STALL.set()
    server.shutdown()
    server.server_close()


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("page", ["whole", "slow"])
def test_download_gives_the_whole_file(site: str, tmp_path: Path, page: str) -> None:
    target = tmp_path / "below" / "file.bin"
    download(f"{site}/{page}", target, md5=MD5, timeout=0.8 if page == "slow" else 5)
    assert target.read_bytes() == CONTENT
    assert left_in(target.parent) == ["file.bin"]


@pytest.mark.parametrize("page", ["missing", "short", "other"])
def test_wrong_answer_leaves_nothing(site: str, tmp_path: Path, page: str) -> None:
    with pytest.raises(DataMissingError, match=f"/{page}"):
        download(f"{site}/{page}", tmp_path / "file.bin", md5=MD5, timeout=5)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("page", ["silent", "stalls"])
def test_silence_is_given_up_in_time(site: str, tmp_path: Path, page: str) -> None:
    start = time.monotonic()
    with pytest.raises(DataMissingError):
        download(f"{site}/{page}", tmp_path / "file.bin", md5=MD5, timeout=0.5)
    assert time.monotonic() - start < 3
    assert left_in(tmp_path) == []


def test_a_name_that_is_never_looked_up_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No socket timeout bounds the look-up of a name, so only the watch over the thread can end this.
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: STALL.wait(20))
    STALL.clear()
    start = time.monotonic()
    with pytest.raises(DataMissingError, match=r"no answer from .* for 0.3 s"):
        download("http://nowhere.invalid/x", tmp_path / "x", md5=MD5, timeout=0.3)
    assert time.monotonic() - start < 3


def test_explanation_names_file_folder_and_url(tmp_path: Path) -> None:
    target = tmp_path / "raw" / "images.gz"
    with pytest.raises(DataMissingError) as caught:
        download_or_explain("sketches", {target: ("http://127.0.0.1:9/images.gz", MD5)}, timeout=2, hint="; or ask")
    for part in ("'sketches'", "images.gz", str(target.parent), "http://127.0.0.1:9/images.gz", "or ask"):
        assert part in str(caught.value)


def test_a_file_that_is_there_is_not_fetched(tmp_path: Path) -> None:
    target = tmp_path / "images.gz"
    target.write_bytes(b"mine")
    download_or_explain("sketches", {target: ("http://127.0.0.1:9/images.gz", MD5)}, timeout=2)
    assert target.read_bytes() == b"mine"


def test_missing_data_is_a_data_error() -> None:
    assert issubclass(DataMissingError, DataError)
