"""`trilemma compare`: entries of a study, runs that were made elsewhere, or samples."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.standalone import ExtractorName, Json
from pipeline.errors import UserError
from pipeline.tables.outside.files import PARQUET, TEXT, read_file, read_wandb
from pipeline.tables.outside.groups import Test, parse_metric, read_groups

if TYPE_CHECKING:
    from pipeline.tables.outside.verdicts import Answer

MLFLOW, WANDB = "mlflow:", "wandb:"


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN ... | TABLE | PATH PATH ...",
            help="runs or guided entries; FILE.csv, FILE.parquet, mlflow:EXPERIMENT or wandb:FILE.csv; or samples",
        ),
    ],
    apart_from: Annotated[list[str] | None, typer.Option(metavar="FIELD", help="that may differ in the cards")] = None,
    group_by: Annotated[str | None, typer.Option(metavar="COLUMN", help="of a table: what is compared")] = None,
    over: Annotated[str | None, typer.Option(metavar="COLUMN", help="of a table: the seed")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME:min", help="or NAME:max; also several times")
    ] = None,
    samples: Annotated[bool, typer.Option("--samples", help="the arguments are samples: PATH or NAME=PATH")] = False,
    real: Annotated[Path | None, typer.Option(help="real samples, or a reference .npz")] = None,
    extractor: ExtractorName = None,
    baseline: Annotated[str | None, typer.Option(metavar="GROUP", help="instead of the first group")] = None,
    test: Annotated[Test, typer.Option(help="auto: paired where seeds are shared, else welch")] = "auto",
    tag: Annotated[bool, typer.Option("--tag", help="write the verdicts to the MLflow experiment")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="a Markdown table on stdout")] = False,
    as_json: Json = False,
) -> None:
    """Compare evaluated runs, rows of a table or samples with the first ones, by seeds.

    Of a table or samples the exit code is 0 if a group is better after correction, 4 if none is and one is worse, 3 if
    nothing is resolvable, 2 for a mistake.
    """
    of_table = {"--group-by": group_by, "--over": over, "--tag": tag}
    of_samples = {"--real": real, "--extractor": extractor}
    of_both = {"--metric": metric, "--baseline": baseline, "--markdown": markdown, "--test": test != "auto"}
    is_table = bool(group_by or over) or any(
        n.startswith((MLFLOW, WANDB)) or Path(n).suffix in (*TEXT, PARQUET) for n in names
    )
    if samples:
        _refuse({**of_table, "--apart-from": apart_from}, "--samples")
        if real is None:
            raise UserError("--samples: no --real came: pass real samples of the same kind, or a reference .npz")
        from pipeline.tables.outside.samples import compare_samples

        answer = compare_samples(names, real, metric or [], extractor, baseline, test)
    elif is_table:
        _refuse({**of_samples, "--apart-from": apart_from}, "a table")
        if len(names) > 1 or group_by is None or over is None or not metric:
            raise UserError(
                f"{' '.join(names)}: one table with --group-by COLUMN --over COLUMN --metric NAME:min was wanted"
            )
        answer = _compare_table(names[0], group_by, over, metric, baseline, test, tag)
    else:
        _refuse({**of_table, **of_samples, **of_both}, "entries of params.yaml")
        from pipeline.cli.display import print_comparison
        from pipeline.config.study import load_study
        from pipeline.tables.compare import compare as compare_entries

        print_comparison(compare_entries(load_study(Path.cwd() / "params.yaml"), names, apart_from or ()), as_json)
        return
    from pipeline.cli.compare_table import print_answer

    print_answer(answer, as_json, markdown)
    raise typer.Exit(answer.exit_code)


def _refuse(options: dict[str, object], what: str) -> None:
    for option, value in options.items():
        if value:
            raise UserError(f"{option} came, which means nothing for {what}: leave it out (trilemma compare --help)")


def _compare_table(
    source: str, group_by: str, over: str, metrics: list[str], baseline: str | None, test: Test, tag: bool
) -> "Answer":
    from pipeline.tables.outside.verdicts import compare_groups

    chosen = [parse_metric(text) for text in metrics]
    is_mlflow = source.startswith(MLFLOW)
    if tag and not is_mlflow:
        raise UserError(f"--tag: {source} came, {MLFLOW}EXPERIMENT was wanted: only there a tag can be written")
    if is_mlflow:
        from pipeline.tables.outside.mlflow_runs import read_experiment

        table = read_experiment(Path.cwd(), source.removeprefix(MLFLOW))
    elif source.startswith(WANDB):
        table = read_wandb(Path(source.removeprefix(WANDB)))
    else:
        table = read_file(Path(source))
    answer = compare_groups(source, read_groups(table, group_by, over, chosen), baseline, test)
    if tag:
        from pipeline.tables.outside.mlflow_runs import write_tag

        write_tag(Path.cwd(), source.removeprefix(MLFLOW), answer)
    return answer
