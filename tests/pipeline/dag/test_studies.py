"""Studies at the papers' scale: their networks have the published sizes, and every stage of them runs when shrunk."""

import signal
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from methods.core.rng import rows_of_worker
from methods.core.types import DataSpec
from methods.nets.adm.guidance_head import LABEL_ROWS
from pipeline.config.build import build_method
from pipeline.config.study import Study, load_study
from pipeline.dag.graph import STAGES, entries
from pipeline.dag.run import run_stage
from pipeline.data.artifacts import read_artifact
from pipeline.training.importers.checkpoints import PREFIX
from tests.support.toy_study import BIN, ROOT

SHAPES = {
    "cifar10": DataSpec((3, 32, 32), 10, 0.5),
    "celeba64": DataSpec((3, 64, 64), 0, 0.5),
    "ffhq64": DataSpec((3, 64, 64), 0, 0.5),
    "imagenet64": DataSpec((3, 64, 64), 1000, 0.5),
    "celebahq256": DataSpec((3, 256, 256), 0, 0.5),
    "imagenet256": DataSpec((3, 256, 256), 1000, 0.5),
}
RELEASED = {  # network of an entry -> file of param_shapes_*.json, checkpoint in it
    "cifar10/edm": ("edm", "edm-cifar10-32x32-uncond-vp.pkl"),
    "cifar10/edm-conditional": ("edm", "edm-cifar10-32x32-cond-vp.pkl"),
    "cifar10/imagenet32": ("dg", "DG cifar ADM_classifier/32x32_classifier.pt"),
    "cifar10/dg-edm": ("dg", "DG cifar discriminator/cifar_uncond/discriminator_60.pt"),
    "cifar10/dg-edm-conditional": ("dg", "DG cifar discriminator/cifar_cond/discriminator_250.pt"),
    "ffhq64/edm": ("edm", "edm-ffhq-64x64-uncond-vp.pkl"),
    "celeba64/edm": ("edm", "edm-ffhq-64x64-uncond-vp.pkl"),
    "ffhq64/imagenet64": ("adm", "64x64_classifier.pt"),
    "celeba64/imagenet64": ("adm", "64x64_classifier.pt"),
    "imagenet64/adm": ("adm", "64x64_diffusion.pt"),
    "imagenet256/adm": ("adm", "256x256_diffusion.pt"),
    "imagenet256/cg": ("adm", "256x256_classifier.pt"),
}
PRINTED = {  # millions: DDPM section B; DDGAN's as WaveDiff (arXiv:2211.16152) counts them, recalled, not looked up
    "cifar10/ddpm": 35.7,
    "cifar10/tdpm": 35.7,
    "cifar10/ddgan": 48.43,
    "celebahq256/ddgan": 39.73,
}
UNPUBLISHED = {"cifar10/siddm", "celebahq256/siddm", "imagenet64/siddm", "imagenet64/ddgan"}
UNPUBLISHED |= {"ffhq64/dg-edm", "celeba64/dg-edm", "imagenet256/dg"}
NARROW: dict[str, Any] = {"width": 32, "depth": 1, "attention": [4], "head_width": 32, "judge_width": 4}
NARROW |= {"style_width": 8, "mapping_layers": 1, "judge_base": 64, "kept": 2}
FOLDERS = [pytest.param(name, marks=pytest.mark.slow if name != "ffhq64" else ()) for name in SHAPES]


@lru_cache
def study_of(name: str) -> Study:
    return load_study(ROOT / "studies" / name / "params.yaml")


def described(study: Study) -> dict[str, Any]:
    return {**study.runs, **study.classifiers, **study.guides}


def method_of(study: Study, name: str) -> Any:
    entry = described(study)[name]
    trunk = getattr(entry, "trunk", None)
    return build_method(entry.method, entry.model | ({"trunk": study.classifiers[trunk].model} if trunk else {}))


def first_network(study: Study, name: str, data: DataSpec) -> torch.nn.Module:
    """The one that a checkpoint would be of."""
    with torch.device("meta"):
        return next(iter(method_of(study, name).build(data).values()))


def test_every_network_of_every_study_is_counted_or_known_to_be_unpublished() -> None:
    names = {f"{folder}/{name}" for folder in SHAPES for name in described(study_of(folder))}
    assert names == {*RELEASED, *PRINTED, *UNPUBLISHED}
    folders = {path.parent.name for path in (ROOT / "studies").glob("*/params.yaml")}
    assert folders == {*SHAPES, "mog25", "cifar10-small", "digits", "glyphs"}


@pytest.mark.parametrize("entry", RELEASED)
def test_a_network_has_as_many_parameters_as_the_released_one(entry: str, request: pytest.FixtureRequest) -> None:
    (folder, name), (file, checkpoint) = entry.split("/"), RELEASED[entry]
    shapes = YAML(typ="safe", pure=True).load(
        (Path(str(request.config.getoption("--reference"))) / f"param_shapes_{file}.json").read_text()
    )[checkpoint]
    data = SHAPES[folder]
    if "label_emb.weight" in shapes and name.startswith("dg"):  # of which an import takes the data's classes
        assert shapes["label_emb.weight"][0] == LABEL_ROWS
        shapes["label_emb.weight"][0] = data.classes
    ours = first_network(study_of(folder), name, data).state_dict()
    assert sum(value.numel() for value in ours.values()) == sum(map(prod, shapes.values()))


@pytest.mark.parametrize("entry", PRINTED)
def test_a_network_has_as_many_parameters_as_is_printed(entry: str) -> None:
    folder, name = entry.split("/")
    net = first_network(study_of(folder), name, SHAPES[folder])
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(PRINTED[entry], abs=0.05)


@pytest.mark.parametrize("folder", [*SHAPES, "mog25", "cifar10-small"])
def test_the_workers_of_a_study_can_share_its_batches(folder: str) -> None:
    study = study_of(folder)
    for entry in (*described(study).values(), *study.stacks.values()):
        rows_of_worker(entry.train.get("batch", 128), 0, max(study.launch.workers, 1))


@pytest.mark.parametrize("folder", SHAPES)
def test_the_whole_dag_of_a_study_can_be_shown(folder: str) -> None:
    study = study_of(folder)
    command = [BIN / "dvc", "repro", "--dry", "--force", f"studies/{folder}/dvc.yaml"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for stage, names in entries(study).items():
        for name in names:
            assert f"trilemma {stage} '{name}'" in told


@pytest.mark.parametrize("params", sorted((ROOT / "studies").glob("*/params.yaml")), ids=lambda file: file.parent.name)
def test_a_study_has_every_section_that_its_stages_read(params: Path) -> None:
    yaml = YAML(typ="safe", pure=True)
    there = {name for name, entries in yaml.load(params.read_text()).items() if entries is not None}
    for name, stage in yaml.load((params.parent / "dvc.yaml").read_text())["stages"].items():
        over = str(stage.get("foreach", ""))
        if not over.startswith("${") or over[2:-1] in there:
            read = {param.partition(".")[0] for param in stage.get("do", stage).get("params", [])}
            assert read <= there, name


@pytest.fixture
def _handlers_restored() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def shrunk(params: dict[str, Any], folder: Path, data: DataSpec) -> dict[str, Any]:
    """The same entries on 160 pictures of noise: narrow networks, short chains, one step each."""
    for dataset in params["datasets"].values():
        dataset |= {"source": "image_folder", "features": {"epochs": 1}, "fakes": 64}
        dataset["options"] = {"path": str(pictures(folder / "pictures", data.shape[1])), "held_out_share": 0.4}
        dataset["evaluate"] = {"images": 32, "sample_seeds": 1}
    trained = [entry for kind in ("runs", "classifiers", "guides") for entry in params.get(kind, {}).values()]
    for entry in trained:
        known = build_method(entry["method"], {})
        model, train, sample = entry["model"], entry["train"], entry.get("sample", {})
        model |= {key: value for key, value in NARROW.items() if hasattr(known, key)}
        if hasattr(known, "channel_mult"):
            model["channel_mult"] = [1] * (data.shape[1].bit_length() - 2)
        if is_long := hasattr(getattr(known, "Sampling", None), "spacing"):
            model["steps"] = 21
        if "imported" not in train:
            kept = {key: value for key, value in train.items() if key in ("flip", "precision")}
            entry["train"] = kept | {"steps": 1, "batch": 16} | ({"check_every": 1} if "run" in entry else {})
        if sample.get("solver") == "rk45":
            sample["tolerance"] = 0.5
        elif entry["method"] == "edm.EDM":
            sample["steps"] = 2
        elif is_long:
            sample["spacing"] = "2" if entry["method"] == "tdpm.TDPM" else "5"  # DG speaks between the ends
    for guided in params.get("guided", {}).values():
        guided["sample"].pop("steps", None)
    params.pop("sweeps", None)
    params["launch"] = {"workers": 0}
    return params | {"root": str(ROOT)}


def pictures(folder: Path, size: int) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (160, size, size, 3)).astype(np.uint8)
    for number, picture in enumerate(noise):
        place = folder / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{number}.png")
    return folder


@pytest.mark.usefixtures("_handlers_restored")
@pytest.mark.parametrize("name", FOLDERS)
def test_every_stage_of_a_study_runs_when_shrunk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name
    folder.mkdir()
    size = 64 if name == "celebahq256" else 16  # DDGAN's large discriminator halves six times
    data = DataSpec((3, size, size), 2, 0.5)
    params = YAML(typ="safe", pure=True).load((ROOT / "studies" / name / "params.yaml").read_text())
    YAML().dump(shrunk(params, folder, data), folder / "params.yaml")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TRILEMMA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    study = load_study(folder / "params.yaml")
    for entry, block in described(study).items():
        if "imported" in block.train:
            net = next(iter(method_of(study, entry).build(data).values()))
            weights = {key.removeprefix(PREFIX): value for key, value in net.state_dict().items()}
            torch.save(weights, folder / block.train["imported"])
    for stage, names in entries(study).items():
        for entry in names:
            run_stage(stage, entry)
            assert read_artifact(study.out / stage / entry).manifest.stage == STAGES[stage].call(study, entry).stage
