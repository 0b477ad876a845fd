"""The `trilemma` command: parses and calls. Nothing heavy is imported at the top."""

import gc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from pipeline.cli.compare import compare
from pipeline.cli.standalone import Json, import_checkpoint, measure, reference, weights
from pipeline.config.study import Study, load_study
from pipeline.console import redacted, say
from pipeline.dag.graph import STAGES
from pipeline.errors import TrilemmaError, UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, guide, sample, measure and compare fast generative methods. `dvc repro` runs everything in order.",
)

STAGE_PANEL = "Stages, in the order in which they run"
TABLE_PANEL = "Plans, tables and jobs"
OUTSIDE_PANEL = "Images and networks from outside a study"

Name = Annotated[str, typer.Argument(help="an entry of params.yaml")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, envvar="TRILEMMA_WORKERS", help="0: this process; N: a private local Ray; else params.yaml's"),
]
Address = Annotated[str | None, typer.Option(envvar="TRILEMMA_ADDRESS", help="of a Ray cluster to run on")]


def _study() -> Study:
    return load_study(Path.cwd() / "params.yaml")


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


@app.command()
def repro(
    targets: Annotated[list[str] | None, typer.Argument(help="stages such as evaluate@NAME; none: all")] = None,
    jobs: Annotated[int, typer.Option(help="stages at a time", min=1)] = 1,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Run what changed, as `dvc repro`, with independent stages side by side."""
    from pipeline.dag.repro import reproduce
    from pipeline.sweeps.parts import parts_of

    reproduce(targets or [], jobs, workers, address, parts_of)


@app.command(rich_help_panel=STAGE_PANEL)
def check(
    method: Annotated[
        str | None, typer.Argument(help="such as mypackage.mine.Mine, or mine.Mine of a file in this folder")
    ] = None,
    model: Annotated[str, typer.Option(help="the method's fields, as JSON")] = "{}",
    data: Annotated[str, typer.Option(help="points, images or tiny: what the method is tried on")] = "points",
) -> None:
    """Check params.yaml, and write out/check for DVC to compare; or, with METHOD, run the contract tests on it."""
    if method is None:
        from pipeline.dag.check import check_study

        check_study(Path.cwd())
    else:
        from pipeline.cli.check_method import check_method

        check_method(method, model, data)


@app.command()
def report() -> None:
    """Write tables, figures and page under reports/."""
    from pipeline.report.report import write_report

    write_report(Path.cwd())


@app.command()
def runs(as_json: Json = False) -> None:
    """List every run: its stages, their state, and the metrics."""
    from pipeline.cli.display import print_runs
    from pipeline.tables.listing import list_runs

    rows = list(list_runs(Path.cwd()))
    print_json(rows) if as_json else print_runs(rows)


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(help="one that `trilemma sweeps` lists")],
    of: Annotated[str | None, typer.Option(help="a run or guided entry, or several with commas")] = None,
    values: Annotated[str | None, typer.Option(help="such as 0,0.5,inf")] = None,
    seeds: Annotated[int | None, typer.Option(help="per point", min=1)] = None,
    race: Annotated[bool, typer.Option("--race", help="more seeds only where the best is in doubt")] = False,
    concurrent: Annotated[
        int, typer.Option(min=0, envvar="TRILEMMA_CONCURRENT", help="trials at a time, by Ray Tune; 0: in this process")
    ] = 0,
    address: Address = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would run")] = False,
    as_json: Json = False,
    trials: Annotated[str | None, typer.Option(hidden=True, help="numbers; into the store alone")] = None,
) -> None:
    """Vary a setting; run what is not stored yet; write table, figure and verdict."""
    from pipeline.cli.display import print_done, print_sweep_plan
    from pipeline.sweeps.trials import list_calls, plan_sweep

    planned = plan_sweep(name, of, values, seeds, race)
    if dry_run:
        calls = list_calls(planned.study, planned.trials)
        print_json(calls) if as_json else print_sweep_plan(calls)
        return
    if trials is not None:
        from pipeline.sweeps.run import run_trials

        run_trials(planned, [int(number) for number in trials.split(",")])
        return
    from pipeline.report.sweep_page import write  # imports pandas and matplotlib
    from pipeline.sweeps.run import run_sweep

    done = run_sweep(planned, concurrent, address, write)
    print_json(done) if as_json else print_done(done)


app.command()(compare)


@app.command()
def why(
    address: Annotated[str, typer.Argument(metavar="TABLE[:CELL]", help="such as digits:edm-digits/fd")],
    as_json: Json = False,
) -> None:
    """Trace a number to code, settings, data, seeds, checkpoints, card and MLflow run; or list cells."""
    from pipeline.cli.display import print_why
    from pipeline.tables.why import explain

    explanation = explain(_study(), address)
    print_json(explanation) if as_json else print_why(explanation)


@app.command()
def draw(
    name: Annotated[str, typer.Argument(metavar="RUN", help="a trained run or guided entry")],
    out: Annotated[Path, typer.Argument(help="FILE.png")],
    caption: Annotated[str | None, typer.Option(help='of a run with captions, such as "a bold slanted seven"')] = None,
    label: Annotated[str | None, typer.Option(help="a class, by name or number")] = None,
    n: Annotated[int, typer.Option(help="pictures", min=1)] = 16,
    seed: Annotated[int, typer.Option(help="of the first picture", min=0)] = 0,
) -> None:
    """Draw a few pictures of a trained run."""
    from pipeline.cli.draw import draw

    draw(Path.cwd(), name, out, caption, label, n, seed)


app.command()(measure)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="on 127.0.0.1", min=1, max=65535)] = 5000,
    opens: Annotated[bool, typer.Option("--open", help="show the table in a browser")] = False,
) -> None:
    """Start the experiment tracker (MLflow), and print the address of the table of results."""
    from pipeline.report.results_view import save_views
    from pipeline.tracking.ui import serve_ui

    if not Path("params.yaml").is_file():
        return serve_ui(Path.cwd(), port, opens=opens)
    study = _study()
    return serve_ui(study.root, port, save_views(study, port), opens)


def _add_stage(verb: str) -> None:
    @app.command(verb, help=STAGES[verb].summary, rich_help_panel=STAGE_PANEL)
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
            from pipeline.report.translation_page import write_translation_page

            write_translation_page(_study(), name, Path("reports/translations") / name)


for _verb in STAGES:
    _add_stage(_verb)


@app.command("plan", rich_help_panel=TABLE_PANEL)
def plan_stages(
    target: Annotated[str | None, typer.Argument(help="an entry of params.yaml, or a sweep; none: all")] = None,
    as_json: Json = False,
) -> None:
    """List stored and missing stages, with the seconds and memory that each needs."""
    from pipeline.cli.display import print_plan
    from pipeline.dag.plan import plan
    from pipeline.sweeps.trials import chains_of

    study = _study()
    sweeps = [chain for name in study.sweeps if target in (None, name) for chain in chains_of(study, name)]
    rows = plan(study, target, sweeps)
    print_json(rows) if as_json else print_plan(rows)


@app.command(rich_help_panel=TABLE_PANEL)
def sweeps(as_json: Json = False) -> None:
    """List the sweeps of the study and of the package."""
    from pipeline.cli.display import print_sweeps
    from pipeline.sweeps.entry import list_sweeps

    rows = list(list_sweeps(_study()))
    print_json(rows) if as_json else print_sweeps(rows)


@app.command(rich_help_panel=TABLE_PANEL)
def replay(
    addresses: Annotated[list[str] | None, typer.Argument(metavar="[TABLE:CELL ...]", help="as of `why`")] = None,
    sample: Annotated[int, typer.Option(metavar="N", help="so many cells at random", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="of the random choice", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Compute numbers again without stored results, in a temporary folder, and compare."""
    from pipeline.dag.run import own_study
    from pipeline.tables.replay import print_replay, replay

    print_replay(replay(own_study(Path.cwd()), addresses or [], sample, seed), as_json)


@app.command(rich_help_panel=TABLE_PANEL)
def table(name: Annotated[str, typer.Argument(help="such as siddm-1")]) -> None:
    """Write a paper's table with the measured values beside it, under reports/paper-tables/."""
    from pipeline.tables.papers import write_paper_table

    write_paper_table(_study(), name, Path("reports/paper-tables"))


@app.command(rich_help_panel=TABLE_PANEL)
def values(dataset: Annotated[str, typer.Argument(help="a dataset of params.yaml")]) -> None:
    """Write a dataset's tables under reports/tables/."""
    from pipeline.tables.values import write_tables

    write_tables(_study(), dataset, Path("reports/tables"))


@app.command("stack-table", rich_help_panel=TABLE_PANEL)
def stack_table(name: Annotated[str, typer.Argument(help="a stack of params.yaml")]) -> None:
    """Write a stack's tables under reports/tables/."""
    from pipeline.tables.stacks import write_stack_tables

    write_stack_tables(_study(), name, Path("reports/tables"))


@app.command(
    rich_help_panel=TABLE_PANEL, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
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
        raise UserError(f"submit: no command {command[0]!r}; there are {', '.join(sorted(verbs))}")
    verbs[command[0]].make_context(command[0], command[1:])  # so that a wrong option fails before the job is sent
    print(submit(command, dashboard, Path.cwd()))


app.command(rich_help_panel=OUTSIDE_PANEL)(reference)
app.command("import", rich_help_panel=OUTSIDE_PANEL)(import_checkpoint)
app.add_typer(weights, name="weights", rich_help_panel=OUTSIDE_PANEL)


def main() -> None:
    """Exit code 2 for what the user can repair, 1 for anything else, 143 after SIGTERM."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's and numpy's: more are slower on shared cores, and vary
    gc.set_threshold(50_000)  # the default of 700 costs a second while torch and MLflow are imported
    try:
        app(standalone_mode=True)
    except Exception as error:
        expected = isinstance(error, TrilemmaError | ValueError)  # ValueError: the mathematics' own, caused by a user
        if expected and not os.environ.get("TRILEMMA_TRACEBACK"):
            say(f"trilemma: {error}")
        else:
            print(redacted(traceback.format_exc()), file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, TrilemmaError) else UserError.exit_code if expected else 1)


if __name__ == "__main__":
    main()
