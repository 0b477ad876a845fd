"""Official checkpoints become runs; hostile ones are refused in one line, and nothing in them is executed."""

import argparse
import io
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from torch import nn
from torch._utils import _rebuild_tensor_v2

from methods.core.types import At, DataSpec
from methods.discriminator_guidance import Discriminator
from methods.edm import EDM
from methods.iddpm import IDDPM
from methods.nets.adm.blocks import AttentionBlock, AttentionOrder
from pipeline.cli.import_checkpoint import print_entry
from pipeline.config.build import build_method
from pipeline.config.study import load_study
from pipeline.dag.graph import STAGES
from pipeline.errors import TrilemmaError
from pipeline.store.external import external
from pipeline.training.importers.checkpoints import fit, model_of, order_in, read_checkpoint
from pipeline.training.importers.module_pickle import read_module
from pipeline.training.networks import load_networks
from tests.support.released import ADM
from tests.support.stages import run_stage_alone

DATA = DataSpec((3, 8, 8), 0, 0.5)
MODEL = EDM(width=16, depth=1, channel_mult=(1, 2), attention=(4,), dropout=0.1, sigma_data=0.5, augment=0.12)
ARGUMENTS = {
    "img_resolution": 8, "img_channels": 3, "label_dim": 0, "sigma_data": 0.5, "model_type": "SongUNet",
    "model_channels": 16, "num_blocks": 1, "channel_mult": [1, 2], "attn_resolutions": [4], "augment_dim": 9,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _official_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the modules that such files name; running one fails the test."""
    persistence = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: object) -> None:
        raise AssertionError("a file's own code was executed")

    _reconstruct_persistent_obj.__module__ = persistence.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    monkeypatch.setattr(persistence, "_reconstruct_persistent_obj", _reconstruct_persistent_obj, raising=False)
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, persistence.__name__, persistence)


class Persistent(nn.Module):
    """Pickled as EDM's networks are: with source code that a plain reader would run."""

    def __init__(self, inner: nn.Module, kind: str, arguments: dict[str, Any], source: str) -> None:
        super().__init__()
        self.model, self._init_kwargs, self._kind, self._source = inner, arguments, kind, source
        self.init_weight = np.float64(0.5)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: value for name, value in self.__dict__.items() if name not in ("_kind", "_source")}
        meta = {"type": "class", "version": 6, "module_src": self._source, "class_name": self._kind, "state": state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


def renamed(net: nn.Module) -> nn.Module:
    """A network of plain torch modules with the same parameter names: all that a reader may use."""
    top = nn.Module()
    for name, value in net.state_dict().items():
        *path, last = name.split(".")
        module = top
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.ModuleDict())
            module = module._modules[part]
            assert module is not None
        module.register_buffer(last, value) if value.dtype == torch.long else module.register_parameter(
            last, nn.Parameter(value, requires_grad=False)
        )
    modules = nn.ModuleDict()
    modules.__dict__.update(top.__dict__)
    return modules


def edm_file(folder: Path, protocol: int = 4, **arguments: Any) -> tuple[Path, dict[str, nn.Module]]:
    torch.manual_seed(0)
    nets = MODEL.build(DATA)
    source = f"import os; os.system('touch {folder / 'executed'}')"
    network = Persistent(renamed(nets["denoiser"].get_submodule("body")), "EDMPrecond", ARGUMENTS | arguments, source)
    file = folder / "edm.pkl"
    file.write_bytes(pickle.dumps({"ema": network, "loss_fn": None, "dataset_kwargs": {"xflip": False}}, protocol))
    return file, nets


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_an_edm_pickle_gives_its_network_without_running_its_source(protocol: int, tmp_path: Path) -> None:
    file, nets = edm_file(tmp_path, protocol)
    read = read_checkpoint(file, "edm")
    again = EDM(**model_of(read)).build(DATA)
    again["denoiser"].load_state_dict(fit(read, "edm", again, None, "file")["denoiser"])
    x, at = torch.randn(2, 3, 8, 8), At(torch.tensor([0.5, 2.0]), 0)
    for net in (nets["denoiser"], again["denoiser"]):
        net.eval()
    expected = MODEL.denoiser(nets["denoiser"], None)(x, at).x0
    assert torch.equal(MODEL.denoiser(again["denoiser"], None)(x, at).x0, expected)
    assert not (tmp_path / "executed").exists()


def test_a_flat_state_dictionary_gives_its_network(tmp_path: Path) -> None:
    method = IDDPM(width=32, depth=1, channel_mult=(1, 2), attention=(4,), heads=2)
    nets = method.build(DATA)
    flat = OrderedDict((name.removeprefix("body."), v) for name, v in nets["denoiser"].state_dict().items())
    torch.save(flat, tmp_path / "adm.pt")
    loaded = fit(read_checkpoint(tmp_path / "adm.pt", "adm"), "adm", method.build(DATA), "heads-first", "file")
    for name, value in nets["denoiser"].state_dict().items():
        assert torch.equal(loaded["denoiser"][name], value)


def adm_file(folder: Path, order: AttentionOrder) -> tuple[Path, IDDPM, dict[str, nn.Module]]:
    """As guided-diffusion writes it: the order of q, k and v is in no name and no shape."""
    torch.manual_seed(0)
    method = IDDPM(width=32, depth=1, channel_mult=(1, 2), attention=(4,), heads=2, attention_order=order)
    nets = method.build(DATA)
    for value in nets["denoiser"].parameters():  # ADM's last layers begin at zero
        nn.init.normal_(value, std=0.2)
    names = ((name.removeprefix("body."), value) for name, value in nets["denoiser"].state_dict().items())
    torch.save(dict(names), folder / f"{order}.pt")
    return folder / f"{order}.pt", method, nets


def test_the_order_of_q_k_and_v_is_part_of_the_model(tmp_path: Path) -> None:
    images = []
    for order in ("heads-first", "qkv-first"):
        file, method, nets = adm_file(tmp_path, order)
        again = method.build(DATA)
        again["denoiser"].load_state_dict(fit(read_checkpoint(file, "adm"), "adm", again, order, "file")["denoiser"])
        x, at = torch.ones(1, 3, 8, 8), At(torch.tensor([0.5]), 0)
        images += [method.denoiser(net["denoiser"].eval(), None)(x, at).x0 for net in (nets, again)]
        assert torch.equal(images[-1], images[-2])
    assert not torch.allclose(images[0], images[-1], atol=0.01)  # the same weights


def test_a_file_whose_order_is_not_known_is_refused_until_the_entry_has_it(tmp_path: Path) -> None:
    file, method, _ = adm_file(tmp_path, "heads-first")
    for format in ("adm", "iddpm"):  # improved DDPM's code has one order
        refused = pytest.raises(
            TrilemmaError, match=r"not known: set model\.attention_order to heads-first .* or qkv-first"
        )
        with refused if format == "adm" else nullcontext():
            fit(read_checkpoint(file, format), format, method.build(DATA), None, "file")
    with pytest.raises(TrilemmaError, match=r"'qkv-first' came, 'heads-first' was wanted"):
        fit(read_checkpoint(file, "iddpm"), "iddpm", method.build(DATA), "qkv-first", "file")


@pytest.mark.parametrize("name", ADM)
def test_every_released_network_of_adm_has_a_known_order(name: str) -> None:
    with torch.device("meta"):
        net = ADM[name]()
    first = next(layer for layer in net.modules() if isinstance(layer, AttentionBlock))
    assert order_in(net.state_dict(), "adm") == ("heads-first" if first.heads_first else "qkv-first")
    assert first.heads_first == (name != "64x64_diffusion.pt")


DIT: dict[str, Any] = {"net": "dit", "steps": 1000, "schedule": "linear", "objective": "mse", "conditional": True}
DIT |= {"label_dropout": 0.1, "width": 384, "depth": 1, "heads": 6, "patch": 2}
LATENTS = DataSpec((4, 8, 8), 10, 1.0)


@pytest.mark.parametrize("is_training", [False, True])
def test_a_dit_is_imported_and_described_from_its_tensors_alone(
    is_training: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Released files hold one network, the official training's two, its optimiser and its arguments."""
    nets = IDDPM(**DIT).build(LATENTS)
    ema = OrderedDict((name.removeprefix("body."), v) for name, v in nets["denoiser"].state_dict().items())
    other = {name: torch.zeros_like(value) for name, value in ema.items()}
    saved = {"model": other, "ema": ema, "opt": {"step": 3}, "args": argparse.Namespace(model="DiT-S/2", lr=1e-4)}
    file = tmp_path / "dit.pt"
    torch.save(saved if is_training else ema, file)
    print_entry(tmp_path, file, "dit", None)
    entry = YAML(typ="safe").load(capsys.readouterr().out)["runs"]["dit"]
    assert entry["method"] == "iddpm.IDDPM"
    assert entry["model"] == DIT
    method = build_method(entry["method"], entry["model"])
    loaded = fit(read_checkpoint(file, "dit"), "dit", method.build(LATENTS), None, "file")["denoiser"]
    assert all(torch.equal(loaded[name], value) for name, value in nets["denoiser"].state_dict().items())
    longer: dict[str, Any] = DIT | {"depth": 2}
    deeper = IDDPM(**longer).build(LATENTS)
    with pytest.raises(TrilemmaError, match=r"file has no body\.blocks\.1\..*does the entry's model fit the file"):
        fit(read_checkpoint(file, "dit"), "dit", deeper, None, "file")
    with pytest.raises(
        TrilemmaError, match=r"embedding_table\.weight has shape \[11, 384\], but the entry's model \[4, 384"
    ):
        fit(read_checkpoint(file, "dit"), "dit", IDDPM(**DIT).build(LATENTS._replace(classes=3)), None, "file")


def test_what_no_tensor_of_a_dit_shows_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes: dict[str, Any] = {"width": 48, "heads": 3, "variance": "large", "conditional": False, "label_dropout": 0.0}
    nets = IDDPM(**(DIT | changes))
    net = nets.build(LATENTS)["denoiser"].get_submodule("body")
    torch.save(net.state_dict(), tmp_path / "small.pt")
    print_entry(tmp_path, tmp_path / "small.pt", "dit", None)
    printed = capsys.readouterr()
    assert "set model.heads" in printed.err
    model = YAML(typ="safe").load(printed.out)["runs"]["small"]["model"]
    assert model["variance"] == "large"
    assert not {"heads", "conditional"} & model.keys()
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(TrilemmaError, match=r"no x_embedder\.proj\.weight .* of a DiT"):
        print_entry(tmp_path, tmp_path / "other.pt", "dit", None)


def test_a_network_of_another_size_is_named_by_its_first_difference(tmp_path: Path) -> None:
    file, _ = edm_file(tmp_path)
    wider = EDM(width=32, depth=1, channel_mult=(1, 2), attention=(4,), dropout=0.1, augment=0.12).build(DATA)
    with pytest.raises(TrilemmaError, match=r"has shape \[\d+.*\], but the entry's model \["):
        fit(read_checkpoint(file, "edm"), "edm", wider, None, "file")
    deeper = EDM(width=16, depth=2, channel_mult=(1, 2), attention=(4,), dropout=0.1, augment=0.12).build(DATA)
    with pytest.raises(TrilemmaError, match=r"file has more body\.dec\S* \(near .*does the entry's model fit"):
        fit(read_checkpoint(file, "edm"), "edm", deeper, None, "file")


class Calling:
    """Runs anything when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def tensor_call(offset: int = 0, size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,)) -> Any:
    buffer = io.BytesIO()
    torch.save(torch.zeros(4), buffer, _use_new_zipfile_serialization=False)
    storage = Calling(torch.storage._load_from_bytes, buffer.getvalue())
    return Calling(_rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


def zipped(name: str, size: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\0" * size)
    return buffer.getvalue()


def hostile(folder: Path) -> dict[str, bytes]:
    touch = f"touch {folder / 'executed'}"
    bodies: dict[str, Any] = {
        "system": Calling(os.system, touch),
        "eval": Calling(eval, f"__import__('os').system({touch!r})"),
        "exec": Calling(exec, f"__import__('os').system({touch!r})"),
        "open": Calling(open, str(folder / "executed"), "w"),
        "getattr": Calling(getattr, os, "system"),
        "import": Calling(__import__, "antigravity"),
        "numpy-load": Calling(np.load, "x", None, True),
        "torch-load": Calling(torch.load, "x"),
        "far": {"ema": tensor_call(offset=10)},
        "long": {"ema": tensor_call(size=(10**9,), stride=(0,))},
        "negative": {"ema": tensor_call(offset=-1)},
        "ragged": {"ema": tensor_call(size=(2, 2))},
        "nested": {"ema": Calling(torch.storage._load_from_bytes, pickle.dumps(Calling(os.system, touch)))},
    }
    files = {
        f"{name}-{n}": pickle.dumps(body, n) for name, body in bodies.items() if name != "getattr" for n in (2, 4, 5)
    }
    complete = edm_file(folder)[0].read_bytes()
    (folder / "edm.pkl").unlink()
    files |= {f"cut-{share}": complete[: int(len(complete) * share)] for share in (0, 0.1, 0.5, 0.99)}
    files |= {
        "text": b"hello",
        "zip-bomb": zipped("archive/data.pkl", 10**7),
        "outside": zipped("../data.pkl", 10),
        "old-opcode": b"(ios\nsystem\n(S'touch x'\ntRo.",
        "persistent": b"Psomewhere\n.",
        "extension": b"\x82\x01.",
        "deep": b"(" * 10_000 + b".",
        "protocol-9": b"\x80\x09N.",
        "no-network": pickle.dumps({"ema": 3}),
    }
    return files


@pytest.mark.parametrize("format", ["edm", "adm", "dit"])
def test_hostile_files_are_refused_and_execute_nothing(format: Any, tmp_path: Path) -> None:
    files = hostile(tmp_path)
    assert len(files) >= 40
    for name, content in files.items():
        file = tmp_path / f"{name}.pkl"
        file.write_bytes(content)
        with pytest.raises(TrilemmaError, match=str(file)) as error:
            read_checkpoint(file, format)
        assert "\n" not in str(error.value), name
    assert not (tmp_path / "executed").exists()


def test_a_network_of_unknown_class_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    content = pickle.dumps({"ema": Persistent(nn.ModuleDict(), "VPPrecond", {}, "")})
    with pytest.raises(TrilemmaError, match=r"class 'VPPrecond': only EDMPrecond"):
        model_of(read_module(content, "file"))


SMALL = {"width": 32, "depth": 1, "channel_mult": [1, 2], "attention": [4], "head_width": 16}
STUDY = f"""\
root: {Path(__file__).parents[3]}
datasets: {{d: {{source: digits}}}}
runs: {{r: {{dataset: d, method: edm.EDM, model: {{net: mlp}}, train: {{}}, sample: {{}}}}}}
classifiers:
  t:
    dataset: d
    method: classifier_guidance.Classifier
    model: {SMALL | {"classes": 7}}
    train: {{imported: t.pt, format: adm}}
guides:
  g:
    run: r
    trunk: t
    method: discriminator_guidance.Discriminator
    model: {{body: head, width: 32, depth: 1}}
    train: {{imported: g.pt, format: dg}}
"""


def test_a_released_head_stands_on_a_released_classifier_of_other_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the official CIFAR-10 head does: it has a row for each of ImageNet's classes, and reads a network of those."""
    (tmp_path / "params.yaml").write_text(STUDY)
    study, data = load_study(tmp_path / "params.yaml"), DataSpec((1, 8, 8), 10, 0.5)
    trunk = build_method("classifier_guidance.Classifier", study.classifiers["t"].model)
    head = Discriminator("head", trunk, width=32, depth=1)
    nets = {"t": trunk.build(data)["classifier"], "g": head.build(DataSpec((1, 8, 8), 1000, 0.5))["discriminator"]}
    for name, net in nets.items():
        torch.save({key.removeprefix("body."): v for key, v in net.state_dict().items()}, tmp_path / f"{name}.pt")
    prepared = {"d": run_stage_alone("prepare", {"source": "digits", "options": {}}, {}, study.out / "prepare" / "d")}
    made = {}
    for stage, name in (("classify", "t"), ("discriminate", "g")):
        call = STAGES[stage].call(study, name)
        assert "fakes" not in call.inputs
        inputs = {"data": prepared["d"], "files": external(call.inputs["files"], tmp_path / "digests")}
        assert (call.stage, call.verb) == ("import-checkpoint", stage)
        made[name] = run_stage_alone(call.stage, call.config, inputs, call.out)
        print_entry(tmp_path, tmp_path / f"{name}.pt", "adm" if name == "t" else "dg", name)
        assert f"{name}.pt" in capsys.readouterr().out
    device = torch.device("cpu")
    loaded = load_networks(made["t"].path, trunk, data, device)
    loaded = load_networks(made["g"].path, head, data, device, {"trunk": loaded["classifier"]})
    x, sigma, labels = torch.randn(4, 1, 8, 8), torch.full((4,), 0.5), torch.arange(4)
    official = {"discriminator": nets["g"].eval(), "trunk": nets["t"].eval()}
    log_weight, expected = (
        guide.log_weight(guide.trunk(x, At(sigma, 0)), At(sigma, 0))
        for guide in (head.guide(of, labels, head.Use()) for of in (loaded, official))
        if guide.trunk is not None
    )
    assert torch.equal(log_weight, expected)
    with pytest.raises(ValueError, match=r"classes: 7 came, none was wanted: a guide's classes are those of its data"):
        trunk.guide({"classifier": nets["t"]}, labels, trunk.Use())
    with pytest.raises(TrilemmaError, match=r"checkpoint of dg has a discriminator, this method has none"):
        print_entry(tmp_path, tmp_path / "g.pt", "dg", "t")
