"""A headless browser, and the tracker's pages in it."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.support.children import wait_for
from tests.support.toy_study import BIN, ToyStudy

BROWSER = shutil.which("chromium")
DESKTOP, PHONE = (1800, 1000), (390, 844)  # pixels
needs_browser = pytest.mark.skipif(
    BROWSER is None and not os.environ.get("CI"), reason="no chromium: apt-get install chromium"
)


class Page(HTMLParser):
    """A rendered page: its texts, and the cells of MLflow's tables by column, each row a mapping."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.rows: dict[str, dict[str, str]] = {}  # by MLflow's id of the row
        self._open: list[tuple[str | None, str | None]] = []  # row and column that an element belongs to
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("br", "img", "input", "link", "meta", "hr"):
            return
        given = dict(attrs)
        row, column = self._open[-1] if self._open else (None, None)
        self._open.append((given.get("row-id", row), given.get("col-id", column)))

    def handle_endtag(self, tag: str) -> None:
        if self._open and tag not in ("br", "img", "input", "link", "meta", "hr"):
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if not data.strip():
            return
        self.words.append(data.strip())
        row, column = self._open[-1] if self._open else (None, None)
        if row is not None and column is not None:
            cells = self.rows.setdefault(row, {})
            cells[column] = cells.get(column, "") + data.strip()


def rendered(address: str, folder: Path, size: tuple[int, int] = DESKTOP, seconds: int = 60) -> tuple[str, str]:
    """HTML of a page after its scripts ran, and the browser's messages. folder: for the browser's own files."""
    assert BROWSER is not None, "CI has no chromium"
    shown = subprocess.run(
        [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            f"--user-data-dir={folder}/browser", f"--window-size={size[0]},{size[1]}",
            f"--virtual-time-budget={seconds * 1000}", "--dump-dom", address,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )  # fmt: skip
    return shown.stdout, shown.stderr


@contextmanager
def tracker_of(toy: ToyStudy, *options: str, **environment: str) -> Iterator[tuple[str, Path]]:
    """`trilemma ui` in the study's folder: its address, and the file with what it printed."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    printed = toy.house / f"ui-{port}.txt"
    with printed.open("w") as log:
        server = subprocess.Popen(
            [BIN / "trilemma", "ui", "--port", str(port), *options],
            cwd=toy.folder,
            env=toy.environment() | environment,
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return urlopen(address, timeout=5).status == 200
        except (URLError, TimeoutError):
            return False

    try:
        assert wait_for(answers, 500), printed.read_text()
        yield address, printed
    finally:
        server.terminate()
        server.wait(30)
