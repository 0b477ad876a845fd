"""`trilemma compare` of tables, MLflow experiments, exports and samples that were made elsewhere."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.cli import main as cli
from pipeline.tables.outside.groups import parse_metric
from pipeline.tables.outside.samples import compare_samples
from pipeline.tracking import backend

Compare = Callable[..., tuple[int, str, str]]
COLUMNS = ("--group-by", "method", "--over", "seed")
FID = (*COLUMNS, "--metric", "fid:min")
NOISE = (0.03, -0.02, 0.01, 0.04, -0.05)  # of seeds 0 to 4
EFFECTS = {"edm": 0.0, "edm-dg": -0.5, "siddm": 0.01}


def rows(**effects: float) -> list[dict[str, object]]:
    """Five seeds of each method; a seed's noise is almost that of the same seed elsewhere."""
    rng = np.random.default_rng(0)
    return [
        {"method": method, "seed": seed, "fid": round(4 + effect + noise + rng.normal(0, 0.02), 6)}
        for method, effect in {name.replace("_", "-"): effect for name, effect in effects.items()}.items()
        for seed, noise in enumerate(NOISE)
    ]


def write_csv(file: Path, content: list[dict[str, object]], separator: str = ",") -> Path:
    lines = [separator.join(content[0]), *(separator.join(map(str, row.values())) for row in content)]
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Compare:
    """`trilemma compare *words` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["trilemma", "compare", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "runs.csv", rows(edm=0, edm_dg=-0.5, siddm=0.01))


def test_groups_are_compared_with_the_first_over_shared_seeds(compare: Compare, table: Path) -> None:
    code, out, _ = compare(table, *FID, "--json")
    found = json.loads(out)
    assert (code, found["verdict"], found["exit_code"], found["baseline"]) == (0, "better", 0, "edm")
    first, guided, siddm = found["rows"]
    assert (first["group"], first["seeds"], first["test"], first["verdict"]) == ("edm", 5, None, None)
    assert (guided["verdict"], guided["test"], guided["compared"]) == ("better", "paired t", "5 pairs")
    assert guided["difference"] == pytest.approx(-0.5, abs=0.05)
    assert guided["p"] < guided["p_corrected"] < 0.05
    assert guided["needed"] is None
    assert siddm["verdict"] == "not resolvable"
    assert siddm["needed"] > 5
    assert siddm["detectable"] > abs(siddm["difference"])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--baseline", "edm-dg"), 4),
        (("--metric", "fid:max"), 4),
        (("--metric", "fid:min"), 0),
    ],
)
def test_the_exit_code_is_the_verdict(words: tuple[str, str], code: int, compare: Compare, table: Path) -> None:
    metric = () if words[0] == "--metric" else ("--metric", "fid:min")
    assert compare(table, *COLUMNS, *metric, *words)[0] == code


def test_equal_groups_are_not_resolvable_with_code_3(compare: Compare, tmp_path: Path) -> None:
    table = write_csv(tmp_path / "runs.csv", rows(edm=0, siddm=0.001))
    assert compare(table, *FID)[0] == 3


def test_people_get_a_table_and_markdown_on_request(compare: Compare, table: Path) -> None:
    out = compare(table, *FID)[1]
    for word in ("fid (lower is better)", "less edm", "baseline", "not resolvable", "paired t", "2 comparisons (Holm)"):
        assert word in out
    lines = compare(table, *FID, "--markdown")[1].splitlines()
    assert lines[0].startswith("| metric | group | seeds | value | less edm |")
    assert len(lines) == 5


def test_other_seeds_are_compared_by_welch_and_seeds_left_out_are_named(compare: Compare, tmp_path: Path) -> None:
    content = rows(edm=0, edm_dg=-0.5)
    other = [row | {"seed": f"s{row['seed']}"} if row["method"] == "edm-dg" else row for row in content]
    found = json.loads(compare(write_csv(tmp_path / "a.csv", other), *FID, "--json")[1])
    assert (found["rows"][1]["test"], found["rows"][1]["compared"]) == ("Welch t", "5 and 5")
    _, out, err = compare(write_csv(tmp_path / "b.csv", content[:-1]), *FID, "--json")
    assert json.loads(out)["rows"][1]["compared"] == "4 pairs"
    assert "seeds that only one of edm and edm-dg has are left out" in err
    found = json.loads(compare(tmp_path / "b.csv", *FID, "--test", "welch", "--json")[1])
    assert found["rows"][1]["compared"] == "4 and 5"
    assert json.loads(compare(tmp_path / "b.csv", *FID, "--json")[1])["rows"][1]["test"] == "paired t"
    assert "bootstrap: 4 shared seeds" in compare(tmp_path / "b.csv", *FID, "--test", "bootstrap")[2]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_and_parquet_give_the_same(separator: str, compare: Compare, table: Path) -> None:
    expected = json.loads(compare(table, *FID, "--json")[1])["rows"]
    other = write_csv(table.with_name("other.csv"), rows(edm=0, edm_dg=-0.5, siddm=0.01), separator)
    assert json.loads(compare(other, *FID, "--json")[1])["rows"] == expected
    parquet.write_table(pa.Table.from_pylist(rows(edm=0, edm_dg=-0.5, siddm=0.01)), table.with_name("runs.parquet"))
    assert json.loads(compare("runs.parquet", *FID, "--json")[1])["rows"] == expected


TWO = "method,seed,fid\na,0,1\na,1,2\nb,0,1\nb,1,{}\n"


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (
            TWO.format(2),
            ("--group-by", "metod", *FID[2:]),
            "no column 'metod' (did you mean 'method'?); it has method,",
        ),
        (TWO.format(2), (*COLUMNS, "--metric", "fdi:min"), "no column 'fdi' (did you mean 'fid'?)"),
        (TWO.format(2), (*COLUMNS, "--metric", "fid"), "--metric fid: no direction came, fid:min was wanted"),
        (TWO.format(2), (*COLUMNS, "--metric", "mine"), "--metric mine: no direction came, mine:min or max was wanted"),
        (TWO.format(2), (*COLUMNS, "--metric", "fid:low"), "no direction came"),
        (TWO.format(2), (*FID, "--metric", "fid:max"), "of each metric was wanted, once"),
        (TWO.format(2), COLUMNS, "one table with --group-by COLUMN --over COLUMN --metric NAME:min was wanted"),
        (TWO.format(2), ("--group-by", "seed", *FID[2:]), "--group-by and --over are both seed"),
        (TWO.format(2), (*FID, "--baseline", "c"), "--baseline 'c': no such group; there are a, b"),
        (TWO.format(2), (*FID, "--tag"), "mlflow:EXPERIMENT was wanted"),
        (TWO.format(2), (*FID, "--real", "x"), "--real came, which means nothing for a table"),
        (TWO.format("nan"), FID, "line 5 (b, seed 1): fid is nan: a run that diverged is a result"),
        (TWO.format("inf"), FID, "line 5 (b, seed 1): fid is inf"),
        (TWO.format(""), FID, "line 5 (b, seed 1): fid is missing"),
        (TWO.format("crash"), FID, "fid is 'crash', no number"),
        (TWO.format("2\nb,1,3"), FID, "line 5 and line 6 are both b with seed 1: leave one out"),
        (TWO.format("2\nc,1,3"), FID, "one seed in c: a difference needs two in every group"),
        (TWO.format("2\nc,,3"), FID, "line 6: seed is empty"),
        (TWO.format("2,7"), FID, "line 5: 4 cells under 3 names"),
        ("method,seed,fid\na,0,1\na,1,2\n", FID, "1 groups by method (a), two were wanted"),
        ("method,seed,fid\n", FID, "0 groups by method (no rows)"),
        ("fid,method,fid\n1,a,2\n", FID, "two columns are named 'fid'"),
        ("", FID, "it is empty"),
        ("\n\n", FID, "has no rows"),
        ("<!doctype html><p>", FID, "this is a web page"),
        ("method\0,seed\n", FID, "no column 'method'"),
    ],
)
def test_a_table_that_cannot_be_compared_is_one_line_with_code_2(
    text: str, words: tuple[str, ...], message: str, compare: Compare, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(text)
    code, out, err = compare("t.csv", *words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("none.csv", *FID), "none.csv does not exist"),
        (("none.pickle", *FID), "none.pickle: .csv, .tsv, .txt, .parquet, mlflow:EXPERIMENT or wandb:FILE.csv"),
        (("bad.parquet", *FID), "no readable Parquet file"),
        (("bad.csv", *FID), "no table in UTF-8 text"),
        (("a", "b", "--baseline", "a"), "--baseline came, which means nothing for entries of params.yaml"),
        (("mlflow:none", *FID), "no mlflow.db in"),
        (("a", "--samples"), "no --real came"),
        (("a", "--samples", "--real", "a"), "different samples of at least two methods were wanted"),
        (("a", "./a", "--samples", "--real", "a"), "different samples of at least two methods were wanted"),
        (("x=a", "y=b", "y=c", "--samples", "--real", "a"), "one path in x, several in others"),
        (("a", "b", "--samples", "--real", "a", "--metric", "fd:max"), "fd is better when lower"),
        (("a", "b", "--samples", "--real", "a", "--metric", "fd", "--extractor", "none"), "a does not exist"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_line_with_code_2(
    words: tuple[str, ...], message: str, compare: Compare, tmp_path: Path
) -> None:
    (tmp_path / "bad.parquet").write_text("PAR1 and no more")
    (tmp_path / "bad.csv").write_bytes(b"method,seed\n\xff\xfe\n")
    code, out, err = compare(*words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err


def test_the_export_of_weights_and_biases_without_unfinished_runs(compare: Compare, tmp_path: Path) -> None:
    content = [{"Name": f"run-{i}", "State": "finished"} | row for i, row in enumerate(rows(edm=0, edm_dg=-0.5))]
    content += [content[0] | {"State": "crashed", "fid": "NaN"}, content[0] | {"method": "prepare", "fid": ""}]
    write_csv(tmp_path / "export.csv", content)
    code, out, err = compare("wandb:export.csv", *FID, "--json")
    assert code == 0
    assert [row["seeds"] for row in json.loads(out)["rows"]] == [5, 5]
    assert "left out runs that did not finish (1 crashed); if they diverged, that is a result too" in err
    assert "left out 1 runs without fid" in err
    (tmp_path / "export.csv").write_text("Step,edm - fid,edm - fid__MIN\n1,2,3\n")
    assert "is the export of a chart: export the table of runs" in compare("wandb:export.csv", *FID)[2]


def test_an_mlflow_experiment_is_compared_and_tagged_on_request(
    compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    backend.create_missing_database(uri)
    client = backend.mlflow_client(uri)
    home = client.create_experiment("papers", artifact_location=str(tmp_path / "artifacts"))
    for row in rows(edm=0, edm_dg=-0.5):
        run = client.create_run(home).info.run_id
        client.log_param(run, "method", row["method"])
        client.log_param(run, "seed", row["seed"])
        client.log_metric(run, "eval/fid", 9.0, step=0)
        client.log_metric(run, "eval/fid", float(str(row["fid"])), step=1)
        client.set_terminated(run)
    client.set_terminated(client.create_run(home).info.run_id, "FAILED")
    client.set_terminated(client.create_run(home).info.run_id)  # of another kind: no metric
    words = ("mlflow:papers", *COLUMNS, "--metric", "eval/fid:min")
    code, out, err = compare(*words, "--tag", "--json")
    assert code == 0
    assert json.loads(out)["rows"][1]["difference"] == pytest.approx(-0.5, abs=0.05)  # of the last values
    assert "(1 FAILED)" in err
    assert "left out 1 runs without eval/fid" in err
    tag = json.loads(client.get_experiment(home).tags["trilemma.compare"])
    metrics = {"eval/fid": {"edm-dg": "better"}}
    assert tag == {"baseline": "edm", "verdict": "better", "metrics": metrics}
    assert compare(f"mlflow:{home}", *words[1:])[0] == 0
    assert "no such experiment (did you mean 'papers'?)" in compare("mlflow:paper", *words[1:])[2]
    assert "(did you mean 'eval/fid'?)" in compare(*words[:-1], "eval/fdi:min")[2]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{probe.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        code, out, err = compare(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "Connection refused; start that server" in err


def samples(folder: Path, **shifts: float) -> None:
    for seed, (name, shift) in enumerate(shifts.items(), start=10):
        rng = np.random.default_rng(seed)
        np.savez(folder / f"{name}.npz", features=(rng.normal(size=(300, 4)) + shift).astype(np.float32))


def test_samples_are_measured_against_the_same_real_ones(compare: Compare, tmp_path: Path) -> None:
    samples(tmp_path, real=0.0, a=1.0, b=0.0, c=1.0)
    words = ("--real", "real.npz", "--extractor", "none", "--metric", "fd", "--json")
    code, out, err = compare("--samples", "a.npz", "b.npz", "c.npz", *words)
    found = json.loads(out)
    assert code == 0
    assert [row["verdict"] for row in found["rows"]] == [None, "better", "not resolvable"]
    assert (found["unit"], found["rows"][1]["compared"]) == ("samples", "300 samples")
    assert "not on the methods" in err
    code, out, _ = compare("--samples", "x=a.npz", "x=c.npz", "y=b.npz", "y=real.npz", *words)
    assert (json.loads(out)["unit"], json.loads(out)["rows"][1]["compared"]) == ("seeds", "2 and 2")
    assert [row["group"] for row in json.loads(out)["rows"]] == ["x", "y"]


def test_samples_are_compared_at_one_number(compare: Compare, tmp_path: Path) -> None:
    samples(tmp_path, real=0.0, a=1.0)
    np.savez(tmp_path / "few.npz", features=np.random.default_rng(9).normal(size=(100, 4)).astype(np.float32))
    words = ("--samples", "a.npz", "few.npz", "--real", "real.npz", "--extractor", "none", "--metric", "fd")
    assert "a.npz: 100 of 300 samples are used" in compare(*words)[2]
    np.savez(tmp_path / "few.npz", features=np.zeros((20, 4), np.float32))
    assert "20 samples of each are too few for an interval" in compare(*words)[2]


def test_samples_of_equal_networks_are_told_apart_in_at_most_one_of_twenty(tmp_path: Path) -> None:
    rng, p = np.random.default_rng(1), []
    np.savez(tmp_path / "real.npz", features=rng.normal(size=(120, 3)).astype(np.float32))
    for _ in range(40):
        for name in ("a", "b"):
            features = rng.normal(0.5, 1, (60, 3)).astype(np.float32)
            np.savez(tmp_path / f"{name}.npz", features=features)
        files = [str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]
        p.append(compare_samples(files, tmp_path / "real.npz", ["fd"], "none").rows[1].p or 0.0)
    assert np.mean(np.array(p) < 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 40)


def test_a_metric_may_have_a_colon_in_its_name() -> None:
    assert parse_metric("eval:fid:min") == ("eval:fid", "lower")


def test_a_table_is_compared_without_torch_mlflow_and_pandas(table: Path) -> None:
    heavy = ("torch", "ray", "mlflow", "dvc", "pandas", "matplotlib", "sklearn", "scipy.stats")
    script = (
        "import sys\nfrom pipeline.cli.main import main\n"
        f"sys.argv = {['trilemma', 'compare', str(table), *FID]!r}\n"
        f"try: main()\nexcept SystemExit: print([name for name in {heavy!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found.splitlines()[-1] == "[]"
