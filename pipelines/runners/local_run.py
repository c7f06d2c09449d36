"""A run on LocalDagRunner: cleans up, runs, checks that every node finished, writes the report."""

import dataclasses
import datetime
import os

from tfx import v1 as tfx

from byol_tf.errors import UserError
from byol_tf.files import is_disk_full
from pipelines import run_metadata, training_runs
from pipelines.components.model_pusher.versions import newest
from pipelines.digests import code_digest
from pipelines.pipeline import create_pipeline
from pipelines.report import page
from pipelines.report.collect import collect
from pipelines.runners import finished_run
from pipelines.settings import Settings


def run(settings: Settings) -> str:
    """Runs the pipeline; returns a sentence about the outcome, and one with the report's path.

    Raises:
        UserError: A component failed for a reason that the user can fix, or did not run.
    """
    finished_run.forget(settings)
    pipeline = create_pipeline(settings)
    run_metadata.remove_leftovers(settings)
    started = datetime.datetime.now()
    try:
        tfx.orchestration.LocalDagRunner().run(pipeline)
    except Exception as error:
        raise _explained(error, settings) from error
    nodes = run_metadata.last_run(settings)
    missing = [
        component.id
        for component in pipeline.components
        if component.id not in nodes or not nodes[component.id].finished
    ]
    if missing:
        raise UserError(
            f"the pipeline did not run to its end: {', '.join(missing)} failed or never ran; see "
            f"{settings.pipeline_root}/pipeline.log."
        )
    training_runs.retire(settings.training_dir)
    outcome = run_metadata.outcome(nodes, settings, newest(settings.model_dir))
    seconds = (datetime.datetime.now() - started).total_seconds()
    path = os.path.join(settings.pipeline_root, "reports", f"{started:%Y%m%d-%H%M%S}.html")
    order = {component.id: nodes[component.id] for component in pipeline.components}
    page.write(
        collect(
            settings, order, outcome, code_digest(), started.isoformat(timespec="seconds"), seconds
        ),
        path,
    )
    if outcome.kind != "rejected":
        again = dataclasses.replace(outcome, kind="unchanged")
    else:
        again = outcome
    left = [path, *filter(None, [outcome.path])]
    left += [a.uri for node in nodes.values() for made in node.outputs.values() for a in made]
    finished_run.record(settings, _printed(again, path), left)
    return _printed(outcome, path)


def _printed(outcome: run_metadata.Outcome, report: str) -> str:
    return f"{outcome.sentence}\nThe report: {report}"


def _explained(error: Exception, settings: Settings) -> Exception:
    """Returns the UserError in an exception's chain, or one for a full disk, or the exception."""
    link: BaseException | None = error
    texts = []
    while link is not None:
        if isinstance(link, UserError):
            return link
        if is_disk_full(link):
            return _disk_full(settings)
        texts.append(str(link))
        link = link.__cause__ or link.__context__
    text = "\n".join(texts)
    if any(sign in text for sign in ("disk is full", "disk I/O error")):
        return _disk_full(settings)
    return error


def _disk_full(settings: Settings) -> UserError:
    return UserError(
        f"there is no space left on the disk of '{settings.pipeline_root}'; free some and run the "
        "same command again: finished components are kept."
    )
