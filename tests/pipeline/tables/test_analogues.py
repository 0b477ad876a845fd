"""Every line of every study's analogues.csv answers printed values with the same quantity, and a study compares."""

import csv
from collections import defaultdict
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from shutil import copy

import pytest

from pipeline.config.build import build_method
from pipeline.config.study import Study, load_study
from pipeline.data.csv_files import read_rows
from pipeline.metrics.card import Card
from pipeline.sweeps.entry import find_sweep, is_stacked, trained_entry
from pipeline.tables.addresses import fits
from pipeline.tables.analogues import ANALOGUES, DELTA, KEY, MEASURED_AS, SAME, SMALL, covers
from pipeline.tables.analogues import read_analogues as lines_of
from pipeline.tables.claims import PRINTED_FILES
from pipeline.tables.measured import origin_of
from pipeline.tables.papers import write_paper_table
from tests.pipeline.tables.test_aggregate import write

ROOT = Path(__file__).parents[3]


@lru_cache
def study_of(file: Path) -> Study:
    return load_study(file)


PRINTED = [row for name in PRINTED_FILES for row in read_rows(ROOT / "reports" / "papers" / name)]
STUDIES = {file.parent.name: study_of(file) for file in sorted(ROOT.glob("studies/*/params.yaml"))}
STUDIES["root"] = study_of(ROOT / "params.yaml")
LINES = [pytest.param(study, line, id=f"{name}-{number}")
    for name, study in STUDIES.items()
    for number, line in enumerate(lines_of(study.analogues), 2)
]  # fmt: skip
DATASETS = {  # printed -> the study's dataset
    "CIFAR-10": "cifar10", "CelebA-64": "celeba64", "CelebA-HQ-256": "celebahq256", "FFHQ-64": "ffhq64",
    "ImageNet-64": "imagenet64", "ImageNet-256": "imagenet256", "MoG-25": "mog25",
}  # fmt: skip
CONDITIONAL = {"True": True, "yes": True, "False": False, "no": False}
PAPER_SCALE = ("cifar10", "celeba64", "celebahq256", "ffhq64", "imagenet64", "imagenet256")


def condition_of(line: dict[str, str], printed: dict[str, str]) -> dict[str, str]:
    return dict(part.split("=", 1) for part in line["row"].format(**printed).split(";"))


def measured_with(study: Study, line: dict[str, str], printed: dict[str, str]) -> tuple[Study, str, str]:
    """The study that measured the row, its dataset, and the entry: "" for a stack's member."""
    where, table = condition_of(line, printed), Path(line["file"]).stem
    if line["file"].startswith("measured/"):
        file = ROOT / "reports" / line["file"]
        (row,) = [row for row in read_rows(file) if fits(row, line["row"].format(**printed))]
        study = study_of((ROOT / origin_of(file, row).study / "params.yaml").resolve())
        if "n_modes" in row:
            return study, f"mog{row['n_modes']}", ""
        where = row
    if table in study.datasets:
        name = where["run"] if where["guidance"] == "none" else where["guidance"]
        assert trained_entry(study, name) is study.runs[where["run"]]
        return study, table, name
    name = where["entry"]
    assert table == Path(line["file"]).stem
    assert line["file"].startswith("measured/") or table in {find_sweep(study, one).table for one in study.sweeps}
    entry = trained_entry(study, name)
    return study, entry.dataset, "" if is_stacked(study, name) else name


def is_conditional(study: Study, dataset: str, entry: str) -> bool | None:
    """None: the data have no classes."""
    data = study.datasets[dataset]
    if data.source == "mog25" or not data.options.get("labelled", True):
        return False if data.source == "image_folder" else None
    assert entry, f"{dataset} has classes"
    run = trained_entry(study, entry)
    return build_method(run.method, run.model).conditional


@pytest.mark.parametrize(("study", "line"), LINES)
def test_an_analogue_is_of_the_quantity_that_was_printed(study: Study, line: dict[str, str]) -> None:
    answered = [row for row in PRINTED if covers(line, row)]
    assert answered
    for printed in answered if line["file"] else ():
        owner, dataset, entry = measured_with(study, line, printed)
        metrics = MEASURED_AS[printed["metric"]]
        metric = condition_of(line, printed)["metric"]
        assert metric in (metrics[:1] if line["scale"] == SAME else metrics)
        assert bool(line["baseline"]) == printed["method"].endswith(DELTA)
        conditional = is_conditional(owner, dataset, entry)
        if conditional is None:
            assert not CONDITIONAL[printed["conditional"]] or "without labels" in line["note"]
        else:
            assert conditional == CONDITIONAL[printed["conditional"]]
        if line["scale"] != SMALL or printed["dataset"] == "MoG-25":
            assert dataset == DATASETS[printed["dataset"]]


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_no_cell_answers_printed_values_of_two_datasets_or_with_and_without_classes(study: Study) -> None:
    answers: dict[tuple[str, str], set[tuple[str, bool | None]]] = defaultdict(set)
    lines = lines_of(study.analogues)
    for printed in PRINTED:
        line = next((line for line in lines if covers(line, printed)), None)
        if line is not None and line["file"]:
            cell = line["file"], line["row"].format(**printed)
            answers[cell].add((printed["dataset"], CONDITIONAL.get(printed["conditional"])))
    assert [cell for cell, kinds in answers.items() if len(kinds) > 1] == []


def test_the_studies_at_the_papers_scale_repeat_the_experiments() -> None:
    for name in PAPER_SCALE:
        scales = {line["scale"] for line in lines_of(STUDIES[name].analogues)}
        assert SMALL not in scales
        assert SAME in scales or name == "celeba64"  # its score model is another one


def table_of(values: dict[str, list[float]], name: str, folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """A printed table of studies/cifar10 where these entries have these FIDs; by method and metric."""
    study = replace(STUDIES["cifar10"], file=folder / "params.yaml", out=folder / "out")
    copy(STUDIES["cifar10"].folder / ANALOGUES, folder / ANALOGUES)
    card = Card("fid", "inception-v3-compat", "a" * 64, "pool", "none", 50000, 50000, "train", "b" * 64)
    for entry, fids in values.items():
        write(study, entry, fids, card)
    write_paper_table(study, name, folder / "paper-tables")
    rows = read_rows(folder / "paper-tables" / f"{name}.csv")
    return {(row["method"] + row["conditional"], row["metric"]): row for row in rows}


def test_a_result_at_the_papers_scale_is_compared_with_the_printed_number_and_can_match(tmp_path: Path) -> None:
    rows = table_of({"siddm": [2.21, 2.25, 2.27], "ddgan": [4.1, 4.2, 4.15]}, "siddm-2", tmp_path)
    siddm, ddgan, ddpm = (rows[method + "False", "FID"] for method in ("SIDDM", "DDGAN", "DDPM"))
    assert (siddm["printed"], siddm["verdict"], siddm["cell"]) == ("2.24", "match", "cifar10:siddm/fid")
    assert float(siddm["ci_low"]) < 2.24 < float(siddm["ci_high"])
    assert (ddgan["verdict"], ddgan["why"]) == ("not resolvable", "1 training seed(s): of these checkpoints only")
    assert (ddpm["verdict"], ddpm["why"].partition(":")[0]) == ("not run", "needs a row tables/cifar10.csv")
    text = (tmp_path / "paper-tables" / "siddm-2.md").read_text()
    assert "Measured: 2 as same experiment." in text
    assert "compare orders, not sizes" not in text


def test_with_classes_and_without_are_told_apart(tmp_path: Path) -> None:
    rows = table_of({"edm": [2.0, 2.03, 2.07], "edm-conditional": [1.5, 1.51, 1.52]}, "dg-cifar-10-main", tmp_path)
    edm, conditional = (rows[f"EDM (random seed){classes}", "FID"] for classes in ("no", "yes"))
    assert (edm["verdict"], edm["cell"]) == ("match", "cifar10:edm/fid")
    assert (conditional["verdict"], conditional["cell"]) == ("not resolvable", "cifar10:edm-conditional/fid")


def test_a_sweep_at_the_papers_scale_answers_the_table_of_its_axis(tmp_path: Path) -> None:
    tables = tmp_path / "reports" / "tables"
    tables.mkdir(parents=True)
    header = [
        "entry",
        "steps",
        "metric",
        "value",
        "ci_low",
        "ci_high",
        "train_seeds",
        "sample_seeds",
        "card",
        "by_seed",
    ]
    card = "inception-v3-compat@0 train n=50000/50000"
    with (tables / "steps.csv").open("w", newline="") as file:
        csv.writer(file).writerows([
            header,
            ["siddm", "1", "fid", "20", "19.9", "20.1", "3", "3", card, ""],
            ["siddm", "4", "fid", "2.2", "2.1", "2.3", "3", "3", card, ""],
        ])  # fmt: skip
    table_of({}, "siddm-6", tmp_path)
    rows = {row["nfe"]: row for row in read_rows(tmp_path / "paper-tables" / "siddm-6.csv")}
    assert {nfe: row["verdict"] for nfe, row in rows.items() if row["cell"]} == {"1": "order confirmed", "4": "match"}


def test_keys_of_the_columns_are_those_of_printed_values() -> None:
    assert set(KEY) <= set(PRINTED[0])
