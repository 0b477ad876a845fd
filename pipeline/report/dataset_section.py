"""A dataset's part of the report: values, guided against unguided, the check of its metrics, images of every entry."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.image import imsave

from pipeline.config.study import Study
from pipeline.console import say
from pipeline.dag.graph import taught
from pipeline.data.artifacts import MANIFEST, facts_of
from pipeline.data.image_grid import grid, path_grid
from pipeline.data.shards import read_pictures
from pipeline.metrics.mixture_metrics import raw
from pipeline.metrics.sensitivity import SENSITIVITY_FILE
from pipeline.report.figures import bars, log_ratio_curves, loss_curves, save, scatter
from pipeline.report.values_section import DatasetValues, comparison_table, features, read_values, value_table, warnings
from pipeline.sampling.recording import LOG_RATIO
from pipeline.tables.markdown import markdown_table

GRID_IMAGES = 40
SCATTER_POINTS = 4_000


def dataset_sections(study: Study, values: DatasetValues, reports: Path, figures: Path) -> Iterator[str]:
    """Markdown; figures: the folder that they are drawn into."""
    dataset = values.dataset
    yield f"## {dataset}"
    yield features(values.rows)
    yield value_table(values)
    yield from warnings(values)
    save(bars(values.rows.dropna(subset=["real_vs_real"])), figures / f"{dataset}.png")
    yield f"![metrics of {dataset}, with intervals and real-vs-real values](figures/{dataset}.png)"
    comparisons = read_values(reports, f"{dataset}-guidance")
    if len(comparisons):
        yield "### Guided against unguided, the same training and sampling seeds"
        yield comparison_table(comparisons)
    yield "### Which faults and changes these metrics detect"
    yield from _sensitivity(study, dataset)
    counted = values.rows.loc[values.rows["metric"] == "nfe", ["entry", "value"]]
    for entry, nfe in counted.itertuples(index=False):
        yield f"### {entry}"
        yield from _entry(study, entry, nfe, figures)


def _sensitivity(study: Study, dataset: str) -> Iterator[str]:
    """Faults with known answers, and the smallest change that a single value resolves."""
    file = study.out / "check-metrics" / dataset / SENSITIVITY_FILE
    if not file.is_file():
        say(f"report: check-metrics {dataset}: missing: dvc repro")
        yield "**Missing**: the metrics are not checked yet (`dvc repro`)."
        return
    check = json.loads(file.read_text())
    verdict = (
        "The check passed" if check["all_faults_detected"] else "**The check failed: do not trust these metrics here**"
    )
    yield (
        f"{verdict}. Known faults were put into real samples ({check['n']}, compared with {check['n_real']} others); "
        f"of {check['clean_repetitions']} repetitions without a fault {check['clean_alarms']} raised a false alarm."
    )
    faults = [
        [case["fault"], ", ".join(case["by"]) if case["detected"] else "**missed**"] for case in check["findings"]
    ]
    yield markdown_table(["fault", "detected by"], faults)
    powers = [
        [metric, f"{check['usual'][metric]:.3g}", f"{power:.2g}"] for metric, power in check["resolving_power"].items()
    ]
    yield markdown_table(["metric", "real against real", "smallest change that a single value resolves"], powers)


def _entry(study: Study, entry: str, nfe: float, figures: Path) -> Iterator[str]:
    """Samples, denoising paths, log-ratio curves and training losses of a run or guided entry."""
    sampled = study.out / "sample" / entry
    if not (sampled / MANIFEST).is_file():
        yield "Its samples are missing (`dvc repro`)."
        return
    run = study.guided[entry].run if entry in study.guided else entry
    samples = read_pictures(sampled, "samples-0").images
    about = f"{entry}, {nfe:g} network evaluations"
    if samples.ndim == 2:
        facts = facts_of(study.out / "prepare" / study.runs[run].dataset)
        points = raw(samples[:SCATTER_POINTS], facts["affine"])
        file = save(scatter(points, np.array(facts["law"]["centres"])), figures / f"{entry}-samples.png")
        yield f"![{about}: {len(points)} samples and the centres of the modes](figures/{file.name})"
    else:
        caption = f"{about}: samples, a class per column"
        yield _image(grid(samples[:GRID_IMAGES], 10), figures / f"{entry}-samples.png", caption)
        if (path := sampled / "path.npy").is_file():
            caption = f"{about}: denoising, left to right"
            yield _image(path_grid(list(np.load(path))), figures / f"{entry}-path.png", caption)
    if (sampled / LOG_RATIO).is_file():
        file = save(log_ratio_curves(pd.read_parquet(sampled / LOG_RATIO)), figures / f"{entry}-log-ratio.png")
        yield f"![the discriminator's log ratio along guided and unguided paths](figures/{file.name})"
    trained = {entry: study.out / "pretrain" / entry}
    if entry in study.guided:
        trained = {use["guide"]: taught(study, use["guide"]) for use in study.guided[entry].guides}
    for name, folder in trained.items():
        if (folder / "history.parquet").is_file():
            history = pd.read_parquet(folder / "history.parquet")
            file = save(loss_curves(history), figures / f"{name}-training.png")
            yield f"![training of {name}](figures/{file.name})"


def _image(image: np.ndarray, file: Path, caption: str) -> str:
    imsave(file, image, cmap="gray", vmin=0, vmax=255, metadata={"Software": "trilemma"})  # no versions: same bytes
    return f"{caption}:\n\n![{caption}](figures/{file.name})"
