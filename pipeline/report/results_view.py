"""The evaluations of a study as MLflow's view of them: one row for each method and training seed."""

import json

from pipeline.config.study import Study
from pipeline.dag.entry_settings import run_of
from pipeline.dag.graph import STAGES
from pipeline.dag.lineage import chain_links
from pipeline.errors import ArtifactError
from pipeline.metrics.card import METRICS, METRICS_FILE
from pipeline.store.open import open_store
from pipeline.tables.aggregate import entries_on, method_names
from pipeline.tables.listing import COVERAGE, QUALITY
from pipeline.tracking.views import PORT, ResultsView, save_view
from pipeline.tracking.watch import result_label

NOTE = (
    "{dataset} in the study {study}. The view `results` (`trilemma ui` prints its address) has one row for each method "
    "and training seed: network calls per image (nfe), quality and coverage, means over the sampling seeds. The other "
    "runs are the stages behind them, by the tag `stage`: prepare, features, pretrain, sample, ...; sweeps have a run "
    "with their trials below it."
)


def save_views(study: Study, port: int = PORT) -> list[str]:
    """Save the view of every dataset; the addresses of those that have rows."""
    views = [_view(study, dataset) for dataset in study.datasets]
    pages = [save_view(study.root, view, port) for view in views if view is not None]
    return [page for page in pages if page is not None]


def _view(study: Study, dataset: str) -> ResultsView | None:
    """None where nothing is evaluated."""
    store, entries, rows, metrics = open_store(study), entries_on(study, dataset), {}, {}
    names = method_names(study, entries)
    for entry in entries:
        call = STAGES["evaluate"].call(study, entry)
        try:
            link = chain_links(study, call, store=store)[-1]
        except ArtifactError:
            continue
        content = json.loads((call.out / METRICS_FILE).read_text())
        seed = study.runs[run_of(study, entry)].train.get("seed", 0)
        seeds = {"seed": str(seed), "sampling seeds": str(len(content["sets"]))}
        rows[link.ledger.get("mlflow_run", "")] = {"method": names[entry]} | seeds
        for metric in reversed(content["metrics"]):  # the first features of a metric stand for it
            label = f"{metric['metric']} {metric['card']['extractor']}"
            metrics[metric["metric"]] = f"eval/{result_label(label)}"
    first = [next((name for name in kind if name in metrics), None) for kind in (QUALITY, COVERAGE)]
    if not any(first):
        return None
    shown = [name for name in first if name]
    columns, note = [metrics[name] for name in shown] + ["eval/nfe"], NOTE.format(dataset=dataset, study=study.name)
    return ResultsView(f"{study.name}/{dataset}", rows, columns, METRICS[shown[0]].better == "lower", note)
