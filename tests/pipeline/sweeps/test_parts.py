"""The trials of a sweep as parts: what each needs, which wait for another, and which have nothing to do."""

from pathlib import Path

import pytest

from pipeline.sweeps import parts
from tests.pipeline.sweeps.test_overrides import study


@pytest.fixture(autouse=True)
def _empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRILEMMA_STORE", str(tmp_path / "store"))


def test_short_trials_that_need_the_same_stages_are_one_part(tmp_path: Path) -> None:
    own = {"dg-weight": {"of": "toy-dg", "values": [0, 1, 4], "seeds": 2}}
    (part,) = parts.parts_of(study(tmp_path, sweeps=own), "dg-weight")
    assert part.command == "trilemma sweep dg-weight --trials 0,2"  # at weight 1 the entry itself has the results
    assert part.name == "sweep@dg-weight: toy-dg weight=0 s0 ..."
    needed = {path.relative_to(tmp_path).as_posix() for path in part.needs}
    assert {"out/pretrain/toy", "out/discriminate/dg-toy", "out/features/digits"} <= needed
    assert not {name for name in needed if name.startswith(("out/sample", "out/evaluate"))}
    assert part.after == frozenset()
    assert 0 < part.cost.seconds < 2 * parts.LEAST_SECONDS


def test_a_trial_waits_for_the_one_that_computes_what_both_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "LEAST_SECONDS", 0.0)
    own = {"fakes": {"of": "toy-dg", "values": [64, 128], "seeds": 2}}
    found = parts.parts_of(study(tmp_path, sweeps=own), "fakes")
    assert [part.command[-1] for part in found] == ["0", "1", "2", "3"]
    assert [len(part.after) for part in found] == [0, 1, 0, 1]
    assert found[3].after == {found[2].name}
