"""Engines that are not there, by the sentence that names them."""

import socket
import time
from collections.abc import Iterator

import pytest
from apache_beam import __version__ as BEAM

from byol_tf.errors import UserError
from pipelines.runners import beam_engine


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of this machine where something listens."""
    with socket.create_server(("localhost", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free() -> int:
    """A port of this machine where nothing listens."""
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def test_an_engine_that_is_not_there_is_one_sentence_at_once(free):
    start = time.monotonic()
    for arguments, sentence in (
        ([f"--job_endpoint=localhost:{free}"], f"--job_endpoint is 'localhost:{free}', where noth"),
        (["--job_endpoint=localhost"], "'localhost'; give HOST:PORT"),
        (["--job_endpoint=localhost:port"], "'localhost:port'; give HOST:PORT"),
        ([], "--job_endpoint is missing"),
    ):
        with pytest.raises(UserError, match=sentence):
            beam_engine.check(["--runner=PortableRunner", *arguments])
    for address in (f"localhost:{free}", f"http://localhost:{free}", "nowhere.invalid:8081"):
        with pytest.raises(UserError, match=f"--flink_master is '{address}', where nothing"):
            beam_engine.check(["--runner=FlinkRunner", f"--flink_master={address}"])
    assert time.monotonic() - start < 30


def test_flink_without_java_or_with_the_job_server_of_another_beam(taken, tmp_path):
    flink = ["--runner=FlinkRunner", f"--flink_master=localhost:{taken}"]
    with pytest.raises(UserError, match="with Java, and there is none"):
        beam_engine.check([*flink, "--job_server_java_launcher=no-such-java"])
    java = "--job_server_java_launcher=true"  # Any program; nothing starts it here.
    with pytest.raises(UserError, match="which does not exist"):
        beam_engine.check([*flink, java, "--flink_job_server_jar=/no/server.jar"])
    for version, fits in ((BEAM, True), ("2.1.0", False)):
        jar = tmp_path / f"beam-runners-flink-1.18-job-server-{version}.jar"
        jar.touch()
        arguments = [*flink, java, f"--flink_job_server_jar={jar}"]
        if fits:
            beam_engine.check(arguments)
        else:
            with pytest.raises(UserError, match=f"for Beam 2.1.0, and Beam {BEAM} is installed"):
                beam_engine.check(arguments)


def test_engines_that_answer_or_that_beam_starts_itself_pass(taken):
    beam_engine.check([])
    beam_engine.check(["--runner=DirectRunner", "--direct_num_workers=0"])
    beam_engine.check(["--runner=PortableRunner", f"--job_endpoint=localhost:{taken}"])
    beam_engine.check(["--runner=FlinkRunner", "--job_server_java_launcher=true"])
