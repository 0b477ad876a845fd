"""Commands for files outside a study."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.console import escaped

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else there")]
ExtractorName = Annotated[str | None, typer.Option(help="none (for features), a name, or FILE.safetensors")]
Source = Annotated[Path | None, typer.Option(envvar="TRILEMMA_DATA", help="folder where relative paths are looked for")]
Folder = Annotated[Path | None, typer.Option(envvar="TRILEMMA_WEIGHTS", help="folder of the weights files")]
weights = typer.Typer(no_args_is_help=True, help="Weights of feature networks: verify, fetch, train.")


def measure(
    generated: Annotated[Path, typer.Argument(help="folder or zip of pictures, Parquet, .npz, .npy, FOLDER/SPLIT")],
    real: Annotated[Path, typer.Argument(help="the same, or a reference .npz")],
    extractor: ExtractorName = None,
    metrics: Annotated[str | None, typer.Option(help="such as fid,kid,recall")] = None,
    seeds: Annotated[str, typer.Option(help="of the random splits for real-vs-real values")] = "0,1,2",
    images: Annotated[int | None, typer.Option(help="use only so many generated samples", min=2)] = None,
    source: Source = None,
    as_json: Json = False,
) -> None:
    """Measure generated pictures or features against real ones."""
    from pipeline.cli.measure_table import print_measurement
    from pipeline.metrics.standalone.image_files import located
    from pipeline.metrics.standalone.measure import measure, numbers

    sides = located(generated, source), located(real, source)
    measurement = measure(*sides, extractor, metrics.split(",") if metrics else None, numbers(seeds), images)
    print_measurement(measurement, as_json)


def reference(
    real: Annotated[Path, typer.Argument(help="real samples, as for `measure`")],
    out: Annotated[Path, typer.Argument(help="FILE.npz, the real side of later measurements")],
    extractor: ExtractorName = None,
    source: Source = None,
) -> None:
    """Write features and statistics of real samples to a file for `measure`."""
    from pipeline.metrics.standalone.image_files import located
    from pipeline.metrics.standalone.reference_file import write_reference

    print(escaped(str(write_reference(located(real, source), out, extractor))))


def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="an official checkpoint")],
    format: Annotated[str, typer.Option("--as", help="edm, adm, iddpm, ddgan, dg, dit or kl")],
    name: Annotated[str | None, typer.Option(help="a run, classifier or guide with this network")] = None,
) -> None:
    """Check a checkpoint, and print the params.yaml entry that loads it."""
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

    print(escaped(str(fetch(name, folder or weights_folder(), known_weights(name)))))


@weights.command("train")
def train_weights(
    source: Annotated[Path, typer.Argument(help="labelled pictures: Parquet with `label`, .npz with `labels`")],
    out: Annotated[Path, typer.Argument(help="FILE.safetensors, for `measure --extractor`")],
    epochs: Annotated[int, typer.Option(min=1)] = 60,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
) -> None:
    """Train a small feature network on labelled pictures."""
    from pipeline.metrics.standalone.train_extractor import train_extractor

    print(escaped(str(train_extractor(source, out, epochs, seed))))
