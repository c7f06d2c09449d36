"""A run on LocalDagRunner: cleans up, runs, checks that every node finished, writes the report."""

import dataclasses
import datetime
import os

from apache_beam.runners.direct.direct_runner import SwitchingDirectRunner
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
from pipelines.runners.input_links import linked
from pipelines.settings import Settings

# From 2.68 on Beam's DirectRunner downloads Prism, a program to run in, unless Python is
# interactive. There is no option for it, and an argument for Beam would make TFX build a package of
# itself for each component.
SwitchingDirectRunner._is_interactive = True  # type: ignore[attr-defined]


def run(settings: Settings) -> str:
    """Runs the pipeline; returns a sentence about the outcome, and one with the report's path.

    Raises:
        UserError: A component failed for a reason that the user can fix, or did not run; or ML
            Metadata is damaged or locked by another process.
    """
    finished_run.forget(settings)
    pipeline = create_pipeline(linked(settings))
    started = datetime.datetime.now()
    try:
        run_metadata.remove_leftovers(settings)
        tfx.orchestration.LocalDagRunner().run(pipeline)
        nodes = run_metadata.last_run(settings)
    except Exception as error:
        raise _explained(error, settings) from error
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
    """Returns the exception, or the UserError that is in its chain or that explains it."""
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
    if any(sign in text for sign in ("file is not a database", "database disk image is malformed")):
        return UserError(
            f"'{settings.metadata_path}' is damaged; put it back from a copy, or give another "
            "--pipeline_root to start from nothing."
        )
    if any(sign in text for sign in ("Concurrent writes aborted", "database is locked")):
        return UserError(
            f"'{settings.metadata_path}' is locked by another process; close what has it open and "
            "run the same command again."
        )
    return error


def _disk_full(settings: Settings) -> UserError:
    return UserError(
        f"there is no space left on the disk of '{settings.pipeline_root}'; free some and run the "
        "same command again: finished components are kept."
    )
