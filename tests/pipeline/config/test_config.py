"""params.yaml: strict, and clear about what is wrong."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.config.build import build
from pipeline.config.study import load_study
from pipeline.dag.graph import STAGES
from pipeline.errors import ConfigError

ROOT = Path(__file__).parents[3]
GOOD = """
root: {root}
datasets: {{digits: {{source: digits}}}}
runs: {{one: {{dataset: digits, method: edm.EDM, model: {{}}, train: {{}}, sample: {{}}}}}}
classifiers: {{cg: {{dataset: digits, method: classifier_guidance.Classifier, model: {{}}, train: {{}}}}}}
guides: {{dg: {{run: one, trunk: cg, method: discriminator_guidance.Discriminator, model: {{}}, train: {{}}}}}}
guided: {{one-dg: {{run: one, guides: [{{guide: dg}}], sample: {{}}}}}}
"""


def study_of(tmp_path: Path, text: str):
    file = tmp_path / "params.yaml"
    file.write_text(text.format(root=ROOT))
    return load_study(file)


@dataclass(frozen=True)
class Block:
    rate: float = 1.0
    steps: int = 3
    window: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: {self.steps} came, at least 1 was wanted")


def test_where_a_study_is_meant_to_run_enters_no_key(tmp_path: Path) -> None:
    here, there = study_of(tmp_path, GOOD), study_of(tmp_path, GOOD + "launch: {{workers: 8, stream: true}}")
    assert (here.launch.workers, there.launch.workers) == (0, 8)
    keys = {STAGES["pretrain"].call(study, "one").key(ROOT, {"data": "ab" * 32}) for study in (here, there)}
    assert len(keys) == 1


def test_the_shipped_study_is_valid() -> None:
    assert load_study(ROOT / "params.yaml").runs


def test_a_good_file_is_read(tmp_path: Path) -> None:
    study = study_of(tmp_path, GOOD)
    assert study.guided["one-dg"].run == "one"
    assert study.root == ROOT


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ("train: {{}}, sample", "trian: {{}}, sample", "runs.one: unknown key 'trian' (did you mean 'train'?)"),
        ("method: edm.EDM", "method: edn.EDM", "no methods/edn.py (did you mean 'edm'?)"),
        ("method: edm.EDM", "method: edm.EDN", "no class 'EDN' in methods/edm.py"),
        ("source: digits", "source: digitz", "no pipeline/data/datasets/digitz.py (did you mean 'digits'?)"),
        ("dataset: digits", "dataset: faces", "runs.one: no dataset named 'faces'"),
        ("guide: dg", "guide: gd", "guided.one-dg: no guide named 'gd'"),
        ("run: one, guides", "run: two, guides", "guided.one-dg: no run named 'two'"),
        ("cg: {{dataset: digits", "cg: {{dataset: faces", "classifiers.cg: no dataset named 'faces'"),
        ("cg: {{", "dg: {{", "guides.dg: a classifier has the same name"),
        ("trunk: cg", "trunk: gc", "guides.dg: no classifier named 'gc' in params.yaml; it has cg"),
        (
            "discriminator_guidance.Discriminator",
            "gan.GAN",
            "guides.dg: method 'gan.GAN': it generates images",
        ),
        ("Discriminator, model: {{}}", "Discriminator, model: {{trunk: 1}}", "model.trunk: write `trunk: NAME`"),
        (
            "train: {{}}, sample",
            "train: {{imported: a.pt, format: edm, seed: 1}}, sample",
            "runs.one: train: imported, format, seed",
        ),
        ("train: {{}}, sample", "train: {{imported: a.pt}}, sample", "give imported and format, and nothing else"),
        ("one-dg:", "one:", "a run has the same name"),
        (
            "datasets:",
            "launch: {{workers: -1}}\ndatasets:",
            "launch.workers: -1 does not fit",
        ),
        ("datasets:", "launch: {{worker: 8}}\ndatasets:", "launch: unknown key 'worker' (did you mean 'workers'?)"),
        ("datasets:", "datasetz:", "unknown key 'datasetz'"),
        ("{{source: digits}}", "7", "a block of `key: value` was wanted"),
        ("datasets: {{", "datasets: [", "is not YAML"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path: Path, was: str, becomes: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        study_of(tmp_path, GOOD.replace(was, becomes, 1))
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("trunk", "entry"), [("trunk: cg, ", "guides.dg"), ("", "guided.one-dg")])
def test_a_classifier_guides_runs_of_its_own_dataset(tmp_path: Path, trunk: str, entry: str) -> None:
    text = GOOD.replace("trunk: cg, ", trunk).replace("[{{guide: dg}}]", "[{{guide: dg}}, {{guide: cg}}]")
    assert study_of(tmp_path, text).guided["one-dg"].guides[1] == {"guide": "cg"}
    text = text.replace("{{digits: {{source: digits}}}}", "{{digits: {{source: digits}}, odd: {{source: digits}}}}")
    with pytest.raises(ConfigError, match=f"{entry}: classifier 'cg' knows 'odd', but the run's dataset is 'digits'"):
        study_of(tmp_path, text.replace("cg: {{dataset: digits", "cg: {{dataset: odd"))


def test_a_missing_file_says_where_to_go(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run this in a study's folder"):
        load_study(tmp_path / "params.yaml")


@pytest.mark.parametrize("written", ["1e-4", "1.0e-4", "0.0001"])
def test_a_number_may_be_written_either_way(tmp_path: Path, written: str) -> None:
    text = GOOD.replace("model: {{}}, train: {{}}, sample", f"model: {{{{lr: {written}}}}}, train: {{{{}}}}, sample", 1)
    assert study_of(tmp_path, text).runs["one"].model == {"lr": 0.0001}


def test_a_block_becomes_its_dataclass() -> None:
    assert build(Block, {"rate": 2, "window": [1, 2]}, "x") == Block(2.0, 3, (1.0, 2.0))


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ({"rate": "fast"}, "x.rate: 'fast' does not fit: Input should be a valid number"),
        ({"steps": 1.5}, "x.steps: 1.5 does not fit"),
        ({"steps": 0}, "x: steps: 0 came, at least 1 was wanted"),
        ({"steps": True}, "x.steps: True does not fit"),
        ({"stepz": 1}, "x: unknown key 'stepz' (did you mean 'steps'?); it has rate, steps, window"),
    ],
)
def test_a_block_that_does_not_fit_is_refused(block: dict, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build(Block, block, "x")
    assert told in str(raised.value)
