"""reports/index.html in a real browser, and what the report says of results that are missing or doubtful."""

import html
import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline.report.report import write_report
from tests.support.browser import PHONE, needs_browser, rendered
from tests.support.toy_study import PARAMS, ToyStudy

MOST_BYTES = 5_000_000
PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const table = document.querySelector('article[id="README.md"] table'), dialog = document.querySelector("dialog")
  const values = () => [...table.tBodies[0].rows].map(row => parseFloat(row.cells[3].textContent))
  const sort = () => table.tHead.rows[0].cells[3].querySelector("button").click()
  const found = {}
  sort(); found.rising = values(); sort(); found.falling = values()
  const row = [...table.tBodies[0].rows].find(row => row.cells[1].textContent === "toy-dg")
  row.cells[3].click(); found.cell = dialog.textContent; dialog.close()
  row.querySelector("button").click(); found.entry = dialog.textContent; dialog.close()
  document.querySelector('details[id="tables/digits.csv"] tbody tr').click(); found.line = dialog.textContent
  dialog.close()
  Bokeh.documents[0].roots()[0].renderers.at(-1).data_source.selected.indices = [0]; found.point = dialog.textContent
  dialog.close()
  const box = part => document.querySelector(part).getBoundingClientRect()
  found.links = [...document.querySelectorAll("nav a")].map(link => link.textContent)
  const links = [...document.querySelectorAll("main a, nav a")].map(link => decodeURI(link.getAttribute("href")))
  found.targets = links.filter(link => !document.getElementById(link.slice(1)))
  found.beside = box("nav").right <= box("main").left
  document.body.style.width = "PHONEpx"
  document.body.style.display = "block"  // as on a narrow window
  found.first = box("main li").top
  document.querySelectorAll("details").forEach(part => { part.open = true })
  const edge = document.body.getBoundingClientRect().right
  const scrolling = ".wide, .plots, dialog, p:has(> .figure)"
  found.overflow = [...document.querySelectorAll("body *")].filter(part => !part.closest(scrolling)
    && part.getBoundingClientRect().right > edge).map(part => part.outerHTML.slice(0, 80))
  found.plots = [...document.querySelectorAll(".plots > div")].map(part => part.getBoundingClientRect().width)
  found.pictures = [...document.images].map(image => image.naturalWidth && image.alt)
  found.asked = performance.getEntriesByType("resource").map(entry => entry.name)
  document.body.append(Object.assign(document.createElement("pre"), {id: "probe", textContent: JSON.stringify(found)}))
}, 2000))
</script>""".replace("PHONE", str(PHONE[0]))


@needs_browser
def test_the_page_works_in_a_browser_and_asks_nothing_of_anybody(reproduced: ToyStudy, tmp_path: Path) -> None:
    page = reproduced.folder / "reports/index.html"
    assert page.stat().st_size < MOST_BYTES
    (tmp_path / "probed.html").write_text(page.read_text() + PROBE)
    shown, printed = rendered(f"file://{tmp_path}/probed.html", tmp_path, seconds=30)
    messages = [line for line in printed.splitlines() if "CONSOLE" in line and "[bokeh" not in line]
    assert messages == []  # neither an error nor a request that the page's own policy refused
    found = json.loads(html.unescape(re.findall(r'<pre id="probe">(.*?)</pre>', shown, re.DOTALL)[0]))
    assert [entry for entry in found["asked"] if not entry.startswith("data:")] == []
    assert found["rising"][1:] == sorted(found["rising"][1:])  # real data stay first
    assert found["falling"][1:] == found["rising"][:0:-1]
    assert found["falling"][0] == found["rising"][0]
    _shows_the_chain(found)
    assert found["links"] == ["results", "methods", "papers", "cost", "tables"]  # a study without sweeps
    assert found["targets"] == []
    assert found["beside"], "the navigation is not beside the text"
    assert found["first"] < PHONE[1] / 2, "the answer is not on the first screen of a phone"
    assert found["overflow"] == []
    assert len(found["plots"]) == 3
    assert all(100 < width <= PHONE[0] for width in found["plots"])
    assert found["pictures"]
    assert all(found["pictures"]), "a picture is broken or has no text beside it"


def _shows_the_chain(found: dict[str, Any]) -> None:
    for part in ("trilemma why digits:toy-dg/fd", "small-cnn@", "trilemma discriminate dg-toy", "mlflow_run", "seeds"):
        assert part in found["cell"], part
    assert "digits:toy-dg/recall@pixels" in found["entry"]
    assert "trilemma why digits:toy/fd" in found["line"]
    assert "trilemma pretrain toy" in found["point"]


def test_the_page_is_part_of_no_stage_but_tables_and_page_are_in_the_reports_run(reproduced: ToyStudy) -> None:
    assert "index.html" not in json.dumps(reproduced.lock())
    with closing(sqlite3.connect(reproduced.house / "mlflow.db")) as database:
        rows = database.execute("SELECT artifact_uri, status FROM runs WHERE name = 'report'").fetchall()
    assert [status for _, status in rows] == ["FINISHED"]
    kept = {path.name for path in Path(rows[0][0].removeprefix("file://")).iterdir()}
    assert kept >= {"index.html", "digits.json", "digits-guidance.json", "cost.json", "ledger.json"}


def test_dvc_shows_the_same_metrics_and_plots(reproduced: ToyStudy) -> None:
    told = json.loads(reproduced.call("dvc", "metrics", "show", "--json").stdout)
    table = pd.read_csv(reproduced.folder / "reports/tables/digits.csv", keep_default_na=False)
    shown = told[""]["data"]["reports/metrics.json"]
    (fd,) = table.loc[(table.run == "toy") & (table.guidance == "none") & (table.metric == "fd"), "value"]
    assert shown["data"]["digits"]["toy"]["fd (small-cnn)"] == float(fd)
    assert "reports/figures" in [out["path"] for out in reproduced.lock()["report"]["outs"]]


def test_what_is_missing_of_another_version_or_measured_otherwise_is_named_and_kept_beside_entries_alike(
    reproduced: ToyStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = reproduced.with_store(tmp_path / "house")
    shutil.rmtree(copy.out / "evaluate" / "toy-cg-dg")
    was = "{body: mlp, width: 16, depth: 1}\n    train: {steps: 240"
    assert was in PARAMS
    params = YAML(typ="safe", pure=True).load(PARAMS.replace(was, was.replace("240", "250")))
    params["runs"]["twin"] = params["runs"]["toy"]
    for stage in ("pretrain", "sample", "evaluate"):
        shutil.copytree(copy.out / stage / "toy", copy.out / stage / "twin")
    with (copy.folder / "params.yaml").open("w") as written:
        YAML().dump(params, written)
    file = copy.folder / "reports/tables/digits.csv"
    table = pd.read_csv(file, keep_default_na=False)
    table = table.loc[table["guidance"] != "toy-cg-dg"]
    otherwise = (table["guidance"] == "toy-dg") & (table["metric"] == "kid")
    table.loc[otherwise, "card"] = "small-cnn@0000 held_out n=7/7"
    pd.concat([table, table.loc[table["guidance"] == "none"].assign(run="twin")]).to_csv(file, index=False)
    write_report(copy.folder)
    told = capsys.readouterr().err
    texts = [told, *((copy.folder / "reports" / name).read_text() for name in ("README.md", "index.html"))]
    for text in texts:
        assert "toy-cg-dg" in text
        assert "missing: out/evaluate/toy-cg-dg does not exist" in text
        assert re.search("toy-dg.*of another version of code, settings or inputs: discriminate dg-toy", text)
        assert "kid was measured in another way" in text
    report = texts[1]
    assert re.search(r"\| toy \| toy-cg-dg \|.*\| \*\*missing\*\* \|", report)
    assert re.search(r"\| toy \| toy-dg \|.*\| \*\*doubtful\*\* \|", report)
    assert "kid (small-cnn@0000 held_out n=7/7)" in report
    for cost in ("pretrain | twin", "pretrain | toy", "sample | twin"):
        assert f"| {cost} |" in (copy.folder / "reports/cost.md").read_text()
