"""Checkpoints as people have them: in other wrappings, of other writers, or not the file at all; own words for each."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from methods.core.types import DataSpec
from methods.iddpm import IDDPM
from pipeline.cli.import_checkpoint import print_entry
from pipeline.errors import TrilemmaError
from pipeline.training.importers.checkpoints import NETS, fit, model_of, read_checkpoint
from tests.pipeline.training.test_importers import DATA, MODEL, edm_file
from tests.pipeline.training.test_importers import _official_modules as _official_modules

METHOD = IDDPM(width=32, depth=1, channel_mult=(1, 2), attention=(4,), heads=2)


@pytest.fixture(scope="module")
def nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return METHOD.build(DataSpec((3, 8, 8), 0, 0.5))


def plain(nets: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {name.removeprefix("body."): value for name, value in nets["denoiser"].state_dict().items()}


def each_part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """As if every first module had been wrapped by itself."""
    return {name.replace(".", f".{part}.", 1): value for name, value in tensors.items()}


def prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda tensors: tensors,
    "compiled": lambda tensors: prefixed(tensors, "_orig_mod."),
    "compiled and parallel": lambda tensors: prefixed(tensors, "module._orig_mod."),
    "parallel and compiled": lambda tensors: prefixed(tensors, "_orig_mod.module."),
    "compiled block by block": lambda tensors: each_part(tensors, "_orig_mod"),
    "sharded": lambda tensors: prefixed(each_part(tensors, "_fsdp_wrapped_module"), "_fsdp_wrapped_module."),
    "under model": lambda tensors: {"model": tensors, "step": 3},
    "under model_state_dict": lambda tensors: {"model_state_dict": prefixed(tensors, "_orig_mod."), "optimizer": {}},
    "two levels": lambda tensors: {"state_dict": {"model": tensors}, "epoch": 1},
    "average beside it": lambda tensors: {"model": {"x": torch.zeros(1)}, "ema": tensors},
}


@pytest.mark.parametrize("what", WRAPPED)
def test_names_and_dictionaries_around_a_network_do_not_matter(
    what: str, nets: dict[str, nn.Module], tmp_path: Path
) -> None:
    torch.save(WRAPPED[what](plain(nets)), tmp_path / "net.pt")
    read = read_checkpoint(tmp_path / "net.pt", "adm")
    loaded = fit(read, "adm", METHOD.build(DataSpec((3, 8, 8), 0, 0.5)), "heads-first", "file")["denoiser"]
    assert all(torch.equal(loaded[name], value) for name, value in nets["denoiser"].state_dict().items())
    left_out = {"under model": ("`step`",), "two levels": ("`epoch`",), "average beside it": ("`model`",)}
    assert read.left_out == left_out.get(what, ("`optimizer`",) if what == "under model_state_dict" else ())


@pytest.mark.parametrize("format", NETS)
def test_every_importer_reads_safetensors(format: Any, nets: dict[str, nn.Module], tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(save(plain(nets)))
    read = read_checkpoint(tmp_path / "net.safetensors", format)
    assert all(torch.equal(read.tensors[name], value) for name, value in plain(nets).items())
    (tmp_path / "net.safetensors").write_bytes(save(plain(nets))[:-100])
    with pytest.raises(TrilemmaError, match=r"net\.safetensors is a broken or incomplete safetensors file: fetch"):
        read_checkpoint(tmp_path / "net.safetensors", format)


def test_an_edm_network_of_tensors_alone_is_read_but_does_not_describe_itself(tmp_path: Path) -> None:
    _, expected = edm_file(tmp_path)
    tensors = {name.removeprefix("body."): value for name, value in expected["denoiser"].state_dict().items()}
    (tmp_path / "net.safetensors").write_bytes(save(tensors))
    torch.save({"model": prefixed(tensors, "model.")}, tmp_path / "net.pt")
    for name in ("net.safetensors", "net.pt"):
        read = read_checkpoint(tmp_path / name, "edm")
        loaded = fit(read, "edm", MODEL.build(DATA), None, "file")["denoiser"]
        assert all(torch.equal(loaded[key], value) for key, value in expected["denoiser"].state_dict().items())
        with pytest.raises(TrilemmaError, match="does not describe its network: pass --name"):
            model_of(read)


def test_what_a_file_holds_beside_the_network_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, _ = edm_file(tmp_path)
    print_entry(tmp_path, file, "edm", None)
    out, err = capsys.readouterr()
    assert "method: edm.EDM" in out
    assert err == f"{file}: left out `loss_fn`, `dataset_kwargs`\n"


class Custom:
    """Of somebody's own code."""


def bomb(folder: Path) -> bytes:
    import zipfile

    with zipfile.ZipFile(folder / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**21))
    return (folder / "bomb").read_bytes()


def saved(folder: Path, content: object) -> bytes:
    torch.save(content, folder / "saved")
    return (folder / "saved").read_bytes()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:2f1c\nsize 221234567\n"
PAGE = b"\n<!DOCTYPE html><html><head><title>Too many downloads of this file</title></head></html>\n"
NOT_A_CHECKPOINT: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "pointer": (lambda _: POINTER, "this is a Git LFS pointer: fetch the file itself"),
    "page": (lambda _: PAGE, "this is a web page: fetch the file itself"),
    "server's XML": (
        lambda _: b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        "server's error message",
    ),
    "server's JSON": (lambda _: b'{"error": "Repository not found"}', "server's error message"),
    "empty": (lambda _: b"", "it is empty: fetch it again"),
    "cut short": (lambda tmp: saved(tmp, {"x": torch.zeros(9)})[:-300], "it is cut short or broken"),
    "text": (lambda _: b"hello", "cut short or broken|broken or no pickle|no checkpoint needs"),
    "whole module": (lambda tmp: saved(tmp, Custom()), r"it holds objects \(.*Custom\)|broken or no pickle|no network"),
    "whole module in a list": (lambda tmp: saved(tmp, [Custom()]), r"it holds objects \(.*Custom\)"),
    "numbers": (lambda tmp: saved(tmp, {"x": 3}), "holds no dictionary of tensors, at the top or under ema, netG_dict"),
    "unpacks to far more": (bomb, "bytes, but 2097152 unpacked, more than 100 times as many"),
    "twice": (
        lambda tmp: saved(tmp, {"a.w": torch.zeros(1), "_orig_mod.a.w": torch.zeros(1)}),
        "holds a network twice",
    ),
}


@pytest.mark.parametrize("format", ["adm", "edm"])
@pytest.mark.parametrize("what", NOT_A_CHECKPOINT)
def test_what_is_no_checkpoint_is_named_in_our_own_words(
    what: str, format: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.foreign_files.MAX_UNPACKED_BYTES", 2**20)
    make, message = NOT_A_CHECKPOINT[what]
    (tmp_path / "net.pt").write_bytes(make(tmp_path))
    with warnings.catch_warnings(action="error"), pytest.raises(TrilemmaError, match=message) as error:
        read_checkpoint(tmp_path / "net.pt", format)
    assert str(error.value).startswith(str(tmp_path / "net.pt"))
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)


def test_numbers_of_another_type_are_converted(nets: dict[str, nn.Module], tmp_path: Path) -> None:
    torch.save({name: value.half() for name, value in plain(nets).items()}, tmp_path / "half.pt")
    loaded = fit(
        read_checkpoint(tmp_path / "half.pt", "adm"),
        "adm",
        METHOD.build(DataSpec((3, 8, 8), 0, 0.5)),
        "heads-first",
        "file",
    )
    assert {value.dtype for value in loaded["denoiser"].values()} <= {torch.float32, torch.int64}
    assert np.isfinite(sum(float(value.double().sum()) for value in loaded["denoiser"].values()))
