"""The `trilemma` command: parses and calls. Nothing heavy is imported at the top."""

import gc
import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from pipeline.cli.standalone import Json, import_checkpoint, measure, reference, weights
from pipeline.console import say
from pipeline.dag.graph import STAGES
from pipeline.errors import TrilemmaError, UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, guide, sample, measure and compare fast generative methods. `dvc repro` runs everything in order.",
)

app.add_typer(weights, name="weights", rich_help_panel="Anybody's pictures")
app.command(rich_help_panel="Anybody's pictures")(measure)
app.command(rich_help_panel="Anybody's pictures")(reference)
app.command("import", rich_help_panel="Anybody's networks")(import_checkpoint)

Name = Annotated[str, typer.Argument(help="an entry of params.yaml")]
Workers = Annotated[
    int | None,
    typer.Option(envvar="TRILEMMA_WORKERS", help="0: in this process; N: a private local Ray; else params.yaml's"),
]
Address = Annotated[str | None, typer.Option(envvar="TRILEMMA_ADDRESS", help="of a Ray cluster to run on")]
SWEEPS = "Sweeps"


def _add_stage(verb: str) -> None:
    def command(
        name: Name,
        workers: Workers = None,
        address: Address = None,
        source: Annotated[Path | None, typer.Option(envvar="TRILEMMA_DATA", help="where `path` is looked up")] = None,
    ) -> None:
        from pipeline.dag.run import run_stage

        if source is not None:
            os.environ["TRILEMMA_DATA"] = str(source.absolute())
        run_stage(verb, name, workers, address)
        if verb == "translate":
            _write_translation_page(name)

    app.command(verb, help=STAGES[verb].summary, rich_help_panel="Stages, in the order of the chain")(command)


for _verb in STAGES:
    _add_stage(_verb)


def _write_translation_page(name: str) -> None:
    from pipeline.config.study import load_study
    from pipeline.report.translation_page import write_translation_page

    write_translation_page(load_study(Path.cwd() / "params.yaml"), name, Path("reports/translations") / name)


@app.command()
def table(name: Annotated[str, typer.Argument(help="such as siddm-1")]) -> None:
    """Write a paper's table beside what was measured, under reports/paper-tables/."""
    from pipeline.config.study import load_study
    from pipeline.tables.papers import write_paper_table

    write_paper_table(load_study(Path.cwd() / "params.yaml"), name, Path("reports/paper-tables"))


@app.command()
def values(dataset: Annotated[str, typer.Argument(help="a dataset of params.yaml")]) -> None:
    """Write a dataset's tables under reports/tables/."""
    from pipeline.config.study import load_study
    from pipeline.tables.values import write_tables

    write_tables(load_study(Path.cwd() / "params.yaml"), dataset, Path("reports/tables"))


@app.command("stack-table")
def stack_table(name: Annotated[str, typer.Argument(help="a stack of params.yaml")]) -> None:
    """Write a stack's tables under reports/tables/."""
    from pipeline.config.study import load_study
    from pipeline.tables.stacks import write_stack_tables

    write_stack_tables(load_study(Path.cwd() / "params.yaml"), name, Path("reports/tables"))


@app.command()
def report() -> None:
    """Write tables, figures and page under reports/."""
    from pipeline.report.report import write_report

    write_report(Path.cwd())


@app.command()
def repro(
    targets: Annotated[list[str] | None, typer.Argument(help="stages such as evaluate@NAME; none: all")] = None,
    jobs: Annotated[int, typer.Option(help="stages at a time", min=1)] = 1,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """As `dvc repro`, with stages that do not need each other side by side."""
    from pipeline.dag.repro import reproduce

    reproduce(targets or [], jobs, workers, address)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def submit(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND ...", help="repro, sweep, ... with its options")],
    dashboard: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="of the cluster, whose jobs API it serves")
    ] = "http://127.0.0.1:8265",
) -> None:
    """Run a command as a job on a Ray cluster, and print the job's id."""
    from pipeline.launch.submit import submit

    verbs = cast(Any, typer.main.get_command(app)).commands
    if command[0] not in verbs:
        raise UserError(f"submit: no command {command[0]!r}: it knows {', '.join(sorted(verbs))}")
    verbs[command[0]].make_context(command[0], command[1:])  # a wrong option is found here and now
    print(submit(command, dashboard, Path.cwd()))


@app.command()
def runs(as_json: Json = False) -> None:
    """List every run: its stages, their state, and the metrics."""
    from pipeline.cli.display import print_runs
    from pipeline.tables.listing import list_runs

    found = list(list_runs(Path.cwd()))
    print_json(found) if as_json else print_runs(found)


@app.command("plan")
def plan_stages(
    target: Annotated[
        str | None, typer.Argument(help="an entry of params.yaml, or a sweep; without: everything")
    ] = None,
    as_json: Json = False,
) -> None:
    """List stored and missing stages, with the seconds and memory that each needs."""
    from pipeline.cli.display import print_plan
    from pipeline.config.study import load_study
    from pipeline.dag.plan import plan
    from pipeline.sweeps.trials import chains_of

    study = load_study(Path.cwd() / "params.yaml")
    sweeps = [chain for name in study.sweeps if target in (None, name) for chain in chains_of(study, name)]
    rows = plan(study, target, sweeps)
    print_json(rows) if as_json else print_plan(rows)


@app.command(rich_help_panel=SWEEPS)
def sweep(
    name: Annotated[str, typer.Argument(help="one that `trilemma sweeps` lists")],
    of: Annotated[str | None, typer.Option(help="a run or guided entry, or several with commas")] = None,
    values: Annotated[str | None, typer.Option(help="such as 0,0.5,inf")] = None,
    seeds: Annotated[int | None, typer.Option(help="per point", min=1)] = None,
    race: Annotated[bool, typer.Option("--race", help="more seeds only where the best is in doubt")] = False,
    concurrent: Annotated[int, typer.Option(envvar="TRILEMMA_CONCURRENT", help="trials at a time, by Ray Tune")] = 0,
    address: Address = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would run")] = False,
    as_json: Json = False,
) -> None:
    """Vary a setting; train, sample and measure what is not there yet; write table, figure and verdict."""
    from pipeline.cli.display import print_done, print_sweep_plan
    from pipeline.sweeps.run import plan_sweep, run_sweep
    from pipeline.sweeps.trials import list_calls

    planned = plan_sweep(name, of, values, seeds, race)
    if dry_run:
        calls = list_calls(planned.study, planned.trials)
        print_json(calls) if as_json else print_sweep_plan(calls)
    else:
        done = run_sweep(planned, concurrent, address, _write_sweep)
        print_json(done) if as_json else print_done(done)


def _write_sweep(*result: Any) -> Any:
    from pipeline.report.sweep_page import write  # it imports pandas and matplotlib

    return write(*result)


@app.command(rich_help_panel=SWEEPS)
def sweeps(as_json: Json = False) -> None:
    """List the sweeps there are."""
    from pipeline.cli.display import print_sweeps
    from pipeline.config.study import load_study
    from pipeline.sweeps.entry import list_sweeps

    found = list(list_sweeps(load_study(Path.cwd() / "params.yaml")))
    print_json(found) if as_json else print_sweeps(found)


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN RUN ...", help="evaluated runs or guided entries")],
    apart_from: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="of the cards, which may differ")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare evaluated runs with the first one named, by shared seeds."""
    from pipeline.cli.display import print_comparison
    from pipeline.config.study import load_study
    from pipeline.tables.compare import compare

    print_comparison(compare(load_study(Path.cwd() / "params.yaml"), names, apart_from or ()), as_json)


@app.command()
def why(
    address: Annotated[str, typer.Argument(metavar="TABLE[:CELL]", help="such as digits:edm-digits/fd")],
    as_json: Json = False,
) -> None:
    """Say where a number comes from: code, settings, data, seeds, checkpoints, card, MLflow run; or list cells."""
    from pipeline.cli.display import print_why
    from pipeline.config.study import load_study
    from pipeline.tables.why import explain

    found = explain(load_study(Path.cwd() / "params.yaml"), address)
    print_json(found) if as_json else print_why(found)


@app.command()
def replay(
    addresses: Annotated[list[str] | None, typer.Argument(metavar="[TABLE:CELL ...]", help="as of `why`")] = None,
    sample: Annotated[int, typer.Option(metavar="N", help="so many cells at random", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="of the random choice")] = 0,
    as_json: Json = False,
) -> None:
    """Compute numbers again from nothing, in a folder of its own, and compare."""
    from pipeline.dag.run import own_study
    from pipeline.tables.replay import print_replay, replay

    print_replay(replay(own_study(Path.cwd()), addresses or [], sample, seed), as_json)


@app.command()
def ui(port: Annotated[int, typer.Option(help="on 127.0.0.1")] = 5000) -> None:
    """Open the experiment tracker (MLflow) in this project."""
    from pipeline.tracking.mlflow_run import serve_ui

    serve_ui(Path.cwd(), port)


def print_json(found: object) -> None:
    print(json.dumps(found, indent=2))


def main() -> None:
    """Exit code 2 for what the user can mend, 1 for anything else, 143 when told to stop."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's and numpy's: more are slower on shared cores, and vary
    gc.set_threshold(50_000)  # not a search for garbage at every 700 objects that torch and MLflow make: a second
    try:
        app(standalone_mode=True)
    except (TrilemmaError, ValueError) as error:  # ValueError: what a user can cause, found by the mathematics
        if os.environ.get("TRILEMMA_TRACEBACK"):
            raise
        said = re.sub(r"(?<=://)[^/\s@]+@", "", str(error))  # an address may have a password in it
        say(f"trilemma: {said}")
        sys.exit(error.exit_code if isinstance(error, TrilemmaError) else UserError.exit_code)


if __name__ == "__main__":
    main()
