"""What a run and a sweep took in all."""

from dataclasses import replace

from pipeline.config.study import load_study
from pipeline.report.budget import budget_section
from tests.support.toy_study import ToyStudy


def rows(text: str) -> dict[str, list[str]]:
    """By first cell."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {first: rest for first, *rest in cells}


def test_a_budget_counts_evaluations_images_and_seconds_of_what_an_entry_stands_on(reproduced: ToyStudy) -> None:
    found = rows(budget_section(load_study(reproduced.folder / "params.yaml")))
    generator, fakes, guides, samples, _, together, images = found["toy"]
    assert generator.startswith("7.68e+03 (")  # 240 steps of 32
    assert (fakes, guides) == ("", "")
    assert samples.startswith("960 (")  # 2 sets of 96, 5 calls each
    assert together.startswith("8.64e+03 (")
    assert images == "192"
    assert found["toy-dg"][0] == generator
    assert found["toy-dg"][1].startswith("1e+03 (")  # 200 fakes, 5 calls each
    assert found["toy-dg"][6] == "392"


def test_a_sweep_shares_what_its_trials_have_in_common(reproduced: ToyStudy) -> None:
    sweep = {"of": ["toy", "toy-dg"], "field": "sample.steps", "values": [3], "seeds": 2, "table": "steps"}
    study = replace(load_study(reproduced.folder / "params.yaml"), sweeps={"steps": sweep})
    trials, asked, alone, needed, together = rows(budget_section(study))["steps"]
    assert (trials, asked, needed) == ("2", "12", "9")
    assert float(alone.split()[0]) > float(together.split()[0]) > 0
