"""User errors of byol-serve: one sentence and a status, if possible before TensorFlow's import."""

import os
import signal
import subprocess
import sys
import time

import pytest
import requests
import servable_models
from failing_tensorflow import WRITTEN, errors_of
from serve import ROOT, Server, free_port


def serve(*flags, timeout=120):
    """Runs byol-serve until it ends by itself; returns its last line and its status."""
    result = subprocess.run(
        [sys.executable, "-m", "serving.local_server.main", *flags],
        capture_output=True, text=True, timeout=timeout, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1], result.returncode


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((), "there is nothing to serve; give --model_base_path or --model_config_file"),
        (("--model_base_path=m", "--batching_parameters_file=b"), "without --enable_batching"),
        (("--model_base_path=m", "surplus"), "unexpected argument 'surplus'"),
        (("--port=0",), "--port"),
        (("--nosuch",), "nosuch"),
        (("--rest_api_port=x",), "--rest_api_port=x"),
    ],
)
def test_wrong_flags_end_at_once(flags, sentence):
    begin = time.monotonic()
    line, status = serve(*flags)
    assert line.startswith("error: ") and sentence in line and status == 1
    assert time.monotonic() - begin < 20, "TensorFlow was imported for nothing"


def test_an_import_of_tensorflow_that_fails_shows_why(tmp_path):
    errors = errors_of(
        "serving.local_server.main",
        "--model_base_path=m",
        folder=tmp_path,
        end="raise ImportError('no libcudart')",
    )
    assert f"{WRITTEN}Traceback" in errors and "no libcudart" in errors


@pytest.mark.slow
def test_a_model_that_does_not_load_is_a_sentence(tmp_path):
    (tmp_path / "model" / "1").mkdir(parents=True)
    (tmp_path / "model" / "1" / "saved_model.pb").write_text("nothing")
    line, status = serve(
        f"--port={free_port()}",
        f"--model_base_path={tmp_path}/model",
        "--max_num_load_retries=1",
        "--load_retry_interval_micros=1000",
    )
    assert (
        line.startswith("error: failed to start the server: 1 model(s) did not become available")
        and status == 1
    )


@pytest.mark.slow
def test_a_base_path_that_cannot_be_is_a_sentence(models_dir):
    line, status = serve(f"--model_base_path={models_dir}/half_plus/2")
    assert "is a model itself; give the folder above it" in line and status == 1
    line, status = serve("--model_base_path=gs://bucket/model")
    assert "local folders only" in line and status == 1


@pytest.mark.slow
def test_an_ssl_config_of_paths_is_a_sentence(models_dir, tmp_path):
    config = tmp_path / "ssl.config"
    config.write_text('server_key: "/etc/key.pem" server_cert: "/etc/cert.pem"')
    line, status = serve(f"--model_base_path={models_dir}/half_plus", f"--ssl_config_file={config}")
    assert (
        "are not PEM or do not belong together" in line and "PEM contents" in line and status == 1
    )


@pytest.mark.slow
def test_a_port_in_use_is_a_sentence(models_dir, tmp_path):
    base = f"--model_base_path={models_dir}/half_plus"
    with Server(tmp_path / "log", base) as server:
        line, status = serve(f"--port={server.port}", base)
        assert f"cannot listen on 127.0.0.1:{server.port} for gRPC" in line and status == 1
        line, status = serve(f"--port={free_port()}", f"--rest_api_port={server.rest_port}", base)
        assert f"cannot listen on 127.0.0.1:{server.rest_port} for REST" in line and status == 1


@pytest.mark.slow
def test_it_waits_for_the_first_version_and_says_so(tmp_path):
    (tmp_path / "model").mkdir()
    with Server(
        tmp_path / "log",
        f"--model_base_path={tmp_path}/model",
        "--file_system_poll_wait_seconds=0.1",
        wait=0,
    ) as server:
        end = time.monotonic() + 120
        while "no version of default" not in server.log.read_text():
            assert time.monotonic() < end
            time.sleep(0.1)
        assert not server.listens()
        servable_models.save_half_plus(tmp_path / "staged")
        (tmp_path / "staged").rename(tmp_path / "model" / "1")
        server.wait_until_listening(60)


@pytest.mark.slow
def test_a_lost_terminal_before_the_first_version_ends_it(tmp_path, request):
    (tmp_path / "model").mkdir()
    # The server leaves the signal alone if it is ignored, as it is in these tests under nohup.
    old = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, old))
    with Server(tmp_path / "log", f"--model_base_path={tmp_path}/model", wait=0) as server:
        end = time.monotonic() + 120
        while "no version of default" not in server.log.read_text():
            assert time.monotonic() < end
            time.sleep(0.1)
        server.process.send_signal(signal.SIGHUP)
        assert server.process.wait(10) == 0


def python(code):
    """Runs Python code in the repository."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_end_waits_for_no_thread():
    done = python(
        """if True:
        import time
        from concurrent import futures
        from serving.local_server import main

        futures.ThreadPoolExecutor(1).submit(time.sleep, 600)
        print("the last words")
        main._leave()
        """
    )
    assert (done.stdout, done.returncode) == ("the last words\n", 0), done.stderr


def test_names_from_strangers_forge_no_log_lines():
    done = python(
        r"""if True:
        from absl import logging
        from serving import command

        def main(arguments):
            logging.info("serving %s", "a\nI1125 forged \x1b[2J\u202e Zo\xeb")

        main.__module__ = "serving.command"
        command.run(main)
        """
    )
    assert done.stderr.endswith("] serving a\\nI1125 forged \\x1b[2J\\u202e Zoë\n"), done
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_config_file_is_followed_and_a_wrong_one_changes_nothing(models_dir, tmp_path):
    config = tmp_path / "models.config"

    def write(labels, name="half_plus"):
        config.write_text(
            f'model_config_list {{ config {{ name: "{name}" base_path: "{models_dir}/half_plus" '
            f'model_platform: "tensorflow" model_version_policy {{ all {{}} }} {labels} }} }}'
        )

    def status(path):
        return requests.get(f"{server.url}/v1/models/{path}").status_code

    def wait_for_log(text):
        end = time.monotonic() + 60
        while text not in server.log.read_text():
            assert time.monotonic() < end
            time.sleep(0.05)

    def wait_for_status(path, expected):
        end = time.monotonic() + 60
        while status(path) != expected:
            assert time.monotonic() < end
            time.sleep(0.05)

    write("")
    flags = (f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=0.1")
    with Server(tmp_path / "log", *flags) as server:
        assert status("half_plus/labels/stable/metadata") == 400
        wait_for_status("half_plus/versions/2/metadata", 200)
        write('version_labels { key: "stable" value: 2 }')
        wait_for_status("half_plus/labels/stable/metadata", 200)
        config.write_text("nonsense")
        wait_for_log("the models stay as they are")
        write('version_labels { key: "stable" value: 7 }')
        wait_for_log("not currently available for inference")
        assert status("half_plus/labels/stable/metadata") == 200
        write("", name="renamed")
        wait_for_status("renamed/metadata", 200)
        wait_for_status("half_plus/metadata", 404)
