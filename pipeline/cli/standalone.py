"""Commands on anybody's pictures and networks, which need no study around them."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else there")]
Folder = Annotated[Path | None, typer.Option(envvar="TRILEMMA_WEIGHTS", help="where the files lie")]
weights = typer.Typer(no_args_is_help=True, help="Weights of feature networks: verify, fetch, train.")


def measure(
    generated: Annotated[Path, typer.Argument(help="folder or zip of pictures, Parquet, .npz, .npy, FOLDER/SPLIT")],
    real: Annotated[Path, typer.Argument(help="the same, of real ones")],
    extractor: Annotated[str | None, typer.Option(help="none: features; else a name, or FILE.safetensors")] = None,
    metrics: Annotated[str | None, typer.Option(help="such as fid,kid,recall")] = None,
    seeds: Annotated[str, typer.Option(help="of the random splits behind the floors")] = "0,1,2",
    images: Annotated[int | None, typer.Option(help="use only the first so many generated ones", min=2)] = None,
    source: Annotated[Path | None, typer.Option(envvar="TRILEMMA_DATA", help="where else to look for both")] = None,
    as_json: Json = False,
) -> None:
    """Measure generated pictures or features against real ones."""
    from pipeline.cli.measure_table import print_measurement
    from pipeline.metrics.standalone.image_files import located
    from pipeline.metrics.standalone.measure import measure, numbers
    from pipeline.metrics.standalone.measure_cache import Cache

    sides = located(generated, source), located(real, source)
    found = measure(*sides, extractor, metrics.split(",") if metrics else None, numbers(seeds), images, Cache.at_hand())
    print_measurement(found, as_json)


def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="an official checkpoint")],
    format: Annotated[str, typer.Option("--as", help="edm, adm, iddpm, ddgan or dg")],
    name: Annotated[str | None, typer.Option(help="a run, classifier or guide that it must fit")] = None,
) -> None:
    """Check a checkpoint, and print the entry that takes it over."""
    from pipeline.cli.import_checkpoint import print_entry

    print_entry(Path.cwd(), file, format, name)


@weights.command("verify")
def verify_weights(folder: Folder = None, as_json: Json = False) -> None:
    """Compare the weights of feature networks with their recorded SHA-256."""
    from pipeline.cli.measure_table import print_checks
    from pipeline.metrics.features.weights import weights_folder
    from pipeline.metrics.standalone.fetch_weights import check_all

    print_checks(check_all(folder or weights_folder()), as_json)


@weights.command("fetch")
def fetch_weights(name: Annotated[str, typer.Argument(help="an extractor")], folder: Folder = None) -> None:
    """Download the weights of a feature network and verify them."""
    from pipeline.metrics.features.weights import known_weights, weights_folder
    from pipeline.metrics.standalone.fetch_weights import fetch

    print(fetch(name, folder or weights_folder(), known_weights(name)))


@weights.command("train")
def train_weights(
    source: Annotated[Path, typer.Argument(help="labelled pictures: Parquet with `label`, .npz with `labels`")],
    out: Annotated[Path, typer.Argument(help="FILE.safetensors, for `measure --extractor`")],
    epochs: Annotated[int, typer.Option(min=1)] = 60,
    seed: int = 0,
) -> None:
    """Train a small feature network on the classes of one's own pictures."""
    from pipeline.metrics.standalone.train_extractor import train_extractor

    print(train_extractor(source, out, epochs, seed))
