"""Weights are downloaded, verified, and never used when they are wrong."""

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch_fidelity.feature_extractor_clip as clip
import torch_fidelity.feature_extractor_inceptionv3 as inception

from pipeline.errors import UserError
from pipeline.metrics.features.weights import INCEPTION, KNOWN, WeightsFile, check, known_weights, weights_folder
from pipeline.metrics.standalone.fetch_weights import fetch

CONTENT = b"weights" * 1000


@pytest.fixture
def known(tmp_path: Path) -> Iterator[WeightsFile]:
    """Weights that a server on this machine offers."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.pth").write_bytes(CONTENT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path / "served"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/a.pth"
    yield WeightsFile(("a.pth", "b.pth"), url, hashlib.sha256(CONTENT).hexdigest())
    server.shutdown()
    server.server_close()
    thread.join()


def test_absent_weights_are_downloaded_and_present_ones_are_not(known: WeightsFile, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    assert fetch("net", folder, known).read_bytes() == CONTENT
    assert [file.name for file in folder.iterdir()] == ["a.pth"]
    (tmp_path / "served" / "a.pth").unlink()
    assert fetch("net", folder, known) == folder / "a.pth"


def test_weights_are_found_under_their_other_name(known: WeightsFile, tmp_path: Path) -> None:
    (tmp_path / "b.pth").write_bytes(CONTENT)
    assert fetch("net", tmp_path, known) == tmp_path / "b.pth"


def test_wrong_bytes_are_refused_and_leave_nothing(known: WeightsFile, tmp_path: Path) -> None:
    (tmp_path / "served" / "a.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"a\.pth does not hold the weights of net: invalid hash"):
        fetch("net", tmp_path / "weights", known)
    assert not list((tmp_path / "weights").iterdir())


def test_a_wrong_file_is_named_and_not_replaced(known: WeightsFile, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"else")
    assert check("net", tmp_path, known).status == "wrong"
    with pytest.raises(UserError, match=r"a\.pth: SHA-256"):
        fetch("net", tmp_path, known)
    assert (tmp_path / "a.pth").read_bytes() == b"else"


def test_a_failed_download_names_the_folder_variable(known: WeightsFile, tmp_path: Path) -> None:
    (tmp_path / "served" / "a.pth").unlink()
    with pytest.raises(UserError, match="TRILEMMA_WEIGHTS"):
        fetch("net", tmp_path / "weights", known)


def test_recorded_digests_agree_with_torch_fidelity() -> None:
    assert KNOWN[INCEPTION].url == inception.URL_INCEPTION_V3
    for name, weights in KNOWN.items():
        assert len(weights.sha256) == 64
        if name in clip.MODEL_METADATA:
            assert weights.sha256 == clip.MODEL_METADATA[name]["hash"]
            assert weights.url == clip.MODEL_URLS[name]
        else:
            assert all(weights.sha256[:8] in file for file in weights.file_names)


def test_the_folder_is_named_by_the_user_or_is_torchs_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRILEMMA_WEIGHTS", str(tmp_path))
    assert weights_folder() == tmp_path
    monkeypatch.delenv("TRILEMMA_WEIGHTS")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert weights_folder() == tmp_path / "hub" / "checkpoints"


def test_the_error_for_an_unknown_extractor_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="inception-v3-compat"):
        known_weights("inception")
