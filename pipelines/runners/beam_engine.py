"""Checks before a run that the engine that Beam's arguments name is there."""

import os
import re
import shutil
import socket
import urllib.parse
from collections.abc import Sequence

from byol_tf.errors import UserError

_SECONDS = 10.0
# Beam starts these engines itself, in its own process or in one that it ends.
_LOCAL = ("embed", "[auto]", "[local]", "[collection]")


def check(beam_args: Sequence[str]) -> None:
    """Raises if an engine does not answer; otherwise Beam would wait for minutes.

    Only what this process itself talks to is looked at: a worker pool may be reachable from the
    engine alone.

    Args:
        beam_args: Command-line arguments for Beam.

    Raises:
        UserError: Nothing listens where the job server or the cluster should be, Java is missing,
            or the job server is for another version of Beam.
    """
    # Slow, so imported only where a run begins.
    from apache_beam import __version__ as beam_version
    from apache_beam.options.pipeline_options import PipelineOptions

    options = PipelineOptions(list(beam_args)).get_all_options()
    runner = (options["runner"] or "").rpartition(".")[2]
    if options["job_endpoint"]:
        _answers("job_endpoint", options["job_endpoint"], 0)
    elif runner == "PortableRunner":
        raise UserError("--job_endpoint is missing; give HOST:PORT of the job server.")
    elif runner == "FlinkRunner":
        _answers("flink_master", options["flink_master"], 80)
        if not (
            options["flink_submit_uber_jar"] or shutil.which(options["job_server_java_launcher"])
        ):
            raise UserError(
                "FlinkRunner starts its job server with Java, and there is none; install Java 11 "
                "or 17, or give the --job_endpoint of a job server that runs elsewhere."
            )
        _fits(options["flink_job_server_jar"] or "", beam_version)


def _fits(jar: str, beam_version: str) -> None:
    """Raises a UserError if a job server's jar does not exist or is for another Beam."""
    if jar and "://" not in jar and not os.path.exists(jar):
        raise UserError(f"--flink_job_server_jar is '{jar}', which does not exist.")
    version = re.search(r"-job-server-(\d+\.\d+\.\d+)\.jar$", jar)
    if version and version[1] != beam_version:
        raise UserError(
            f"--flink_job_server_jar is '{jar}', for Beam {version[1]}, and Beam {beam_version} "
            "is installed; give the job server of that version."
        )


def _answers(flag: str, address: str, default_port: int) -> None:
    """Raises a UserError if nothing listens at HOST:PORT or a URL with these."""
    if address in _LOCAL:
        return
    try:
        parsed = urllib.parse.urlsplit(address if "://" in address else f"//{address}")
        host, port = parsed.hostname, parsed.port or default_port
    except ValueError:
        host, port = None, 0
    if not host or not port:
        raise UserError(f"--{flag} is '{address}'; give HOST:PORT.")
    try:
        socket.create_connection((host, port), timeout=_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"--{flag} is '{address}', where nothing answers ({error.strerror or error}); start "
            "the engine, or correct the address."
        ) from error
