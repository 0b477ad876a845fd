"""A dataset's parts of the report: the answer in words, values, the check of its metrics, images of every entry."""

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
from pipeline.metrics.card import METRICS
from pipeline.metrics.intervals import POWER
from pipeline.metrics.mixture_metrics import raw
from pipeline.metrics.sensitivity import SENSITIVITY_FILE
from pipeline.report.figures import bars, log_ratio_curves, loss_curves, save, scatter
from pipeline.report.pictures import samples_picture, trilemma_picture
from pipeline.report.values_section import DatasetValues, comparison_table, features, read_values, value_table, warnings
from pipeline.report.verdicts import Field, answer, statements
from pipeline.sampling.recording import LOG_RATIO
from pipeline.tables.markdown import markdown_table

GRID_IMAGES = 40
SCATTER_POINTS = 4_000


def answer_sections(study: Study, dataset: str, of: Field | None, figures: Path) -> Iterator[str]:
    """Which method to take, the verdicts in words, and two pictures; figures: the folder that they are drawn into."""
    yield f"## {dataset}: which method to take"
    if of is None:
        yield "Fewer than two methods have quality and coverage measured alike: nothing is compared."
        return
    yield "\n".join(f"- {line}" for line in answer(of))
    kinds = [
        f"{kind} is `{metric}` ({METRICS[metric].description}; {METRICS[metric].better} is better)"
        for kind, metric in of.metrics.items()
    ]
    yield f"Here {', '.join(kinds)}, and speed is network calls per image."
    if found := statements(of):
        yield "### What is resolved, and what is not"
        yield "\n".join(f"- {one.text}" for one in found)
        yield (
            "In brackets: 95 % intervals, seed by seed. A difference counts as resolved if it is beyond chance after a "
            f"correction for all {len(found)} comparisons (Holm). The seeds needed are for a power of {POWER:.0%}."
        )
    for name, about, figure in (
        ("trilemma", "quality and coverage of every method; dashed: real against real", trilemma_picture(of)),
        ("together", "samples of every method, real images above", samples_picture(study, of)),
    ):
        if figure is not None:
            save(figure, figures / f"{dataset}-{name}.png")
            yield f"![{dataset}: {about}](figures/{dataset}-{name}.png)"


def result_sections(values: DatasetValues, reports: Path, figures: Path) -> Iterator[str]:
    """All measured values as tables and bars; figures: the folder that they are drawn into."""
    dataset = values.dataset
    yield f"## {dataset}: values"
    yield features(values.rows)
    yield value_table(values)
    yield from warnings(values)
    save(bars(values.rows.dropna(subset=["real_vs_real"])), figures / f"{dataset}.png")
    yield f"![metrics of {dataset}, with intervals and real-vs-real values](figures/{dataset}.png)"
    comparisons = read_values(reports, f"{dataset}-guidance")
    if len(comparisons):
        yield "### Guided against unguided, the same training and sampling seeds"
        yield comparison_table(comparisons)


def method_sections(study: Study, values: DatasetValues, figures: Path) -> Iterator[str]:
    """The check of the metrics; then samples, paths and curves of every entry."""
    yield f"## {values.dataset}: which faults and changes its metrics detect"
    yield from _sensitivity(study, values.dataset)
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
