"""Every shipped sweep by its command, on small data and networks, to its table and verdict."""

import pandas as pd
import pytest

from pipeline.sweeps.entry import Sweep, shipped
from tests.support.toy_study import ToyStudy

PARAMS = """
root: ../..
datasets:
  digits: {source: digits, options: {}, features: {epochs: 1}, fakes: 64, evaluate: {images: 64, sample_seeds: 1}}
  mog25: {source: mog25, options: {per_mode: 40, held_out: 300}, features: {}, evaluate: {images: 200, sample_seeds: 1}}
runs:
  edm: {dataset: digits, method: edm.EDM, model: {net: mlp, width: 8}, train: {steps: 5, batch: 16}, sample: {steps: 3}}
  siddm: {dataset: digits, method: siddm.SIDDM, model: {net: mlp, width: 8}, train: {steps: 4, batch: 16}, sample: {}}
  tdpm:
    dataset: digits
    method: tdpm.TDPM
    model: {kept: 200, width: 8}
    train: {steps: 4, batch: 16}
    sample: {spacing: "3", eta: 0.0}
  adm:
    dataset: digits
    method: iddpm.IDDPM
    model: {width: 32, channel_mult: [1, 2], depth: 1}
    train: {steps: 2, batch: 16}
    sample: {spacing: "2"}
classifiers:
  cg:
    dataset: digits
    method: classifier_guidance.Classifier
    model: {net: mlp, width: 8, depth: 1}
    train: {steps: 4, batch: 16}
guides:
  dg:
    run: edm
    method: discriminator_guidance.Discriminator
    model: {body: mlp, width: 8, depth: 1}
    train: {steps: 4, batch: 16}
  dg-trunk:
    run: edm
    trunk: cg
    method: discriminator_guidance.Discriminator
    model: {body: head, width: 8, depth: 1}
    train: {steps: 1, batch: 16}
guided:
  edm-cg: {run: edm, guides: [{guide: cg}], sample: {}}
  edm-dg: {run: edm, guides: [{guide: dg}], sample: {}}
  edm-trunk: {run: edm, guides: [{guide: dg-trunk}], sample: {}}
  edm-cg-dg: {run: edm, guides: [{guide: cg}, {guide: dg-trunk}], sample: {}}
stacks:
  small:
    dataset: mog25
    method: siddm.SIDDM
    model: {net: mixture-fourier, width: 8, trained_times: visited}
    members:
      siddm-2: {steps: 2}
    train: {steps: 4, batch: 16}
    sample: {}
"""
OF = {
    "afd-weight": "siddm", "steps": "siddm", "truncation": "tdpm", "architecture": "adm", "nfe": "edm,edm-dg",
    "cg-scale": "edm-cg", "cg-dg": "edm-cg-dg", "dg-arms": "edm-trunk", "modes": "small.siddm-2",
}  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyStudy:
    toy = ToyStudy.build(tmp_path_factory.mktemp("shipped") / "house")
    (toy.folder / "params.yaml").write_text(PARAMS)
    return toy


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_sweep_runs_to_its_end(name: str, toy: ToyStudy) -> None:
    sweep = Sweep(**shipped()[name] | {"of": OF.get(name, "edm-dg").split(","), "paper": None})
    toy.run("sweep", name, "--of", ",".join(sweep.entries), "--seeds", "1")
    table = pd.read_csv(toy.folder / "reports" / "tables" / f"{sweep.table}.csv")
    assert len(table.drop_duplicates(["entry", *sweep.axes])) == len(sweep.points())
    if name == "truncation":  # fewer states are fewer calls
        assert dict(zip(table["kept"], table["nfe"])) == {kept: kept + 1 for kept in (999, 99, 49, 3)}
