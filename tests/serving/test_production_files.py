"""The deployment files, compared with each other, with the servers' flags and with byol-serve."""

import base64
import http.server
import json
import pathlib
import re
import shutil
import subprocess
import sys
import threading
from concurrent import futures

import grpc
import pytest
import requests
import yaml
from google.protobuf import text_format
from serve import ROOT, Server, free_port
from tensorflow_serving.config import model_server_config_pb2

from serving.client import EmbeddingClient, EmbeddingError, Tls
from serving.local_server import settings_files, tls

SERVING = ROOT / "serving"
CONFIGS = ("models.config", "batching.config", "monitoring.config")
# Flags of tensorflow_model_server 2.15.1 (main.cc, server.h).
KNOWN_FLAGS = {
    "port",
    "rest_api_port",
    "rest_api_num_threads",
    "rest_api_timeout_in_ms",
    "rest_api_enable_cors_support",
    "grpc_max_threads",
    "grpc_socket_path",
    "grpc_channel_arguments",
    "model_name",
    "model_base_path",
    "model_config_file",
    "model_config_file_poll_wait_seconds",
    "file_system_poll_wait_seconds",
    "max_num_load_retries",
    "load_retry_interval_micros",
    "num_load_threads",
    "num_unload_threads",
    "flush_filesystem_caches",
    "allow_version_labels_for_unavailable_models",
    "saved_model_tags",
    "enable_model_warmup",
    "num_request_iterations_for_warmup",
    "enable_batching",
    "batching_parameters_file",
    "enable_per_model_batching_parameters",
    "tensorflow_session_parallelism",
    "tensorflow_intra_op_parallelism",
    "tensorflow_inter_op_parallelism",
    "tensorflow_session_config_file",
    "per_process_gpu_memory_fraction",
    "ssl_config_file",
    "use_alts_credentials",
    "monitoring_config_file",
    "enable_profiler",
    "enable_grpc_healthcheck_service",
    "mixed_precision",
    "prefer_tflite_model",
    "enable_signature_method_name_check",
    "remove_unused_fields_from_bundle_metagraph",
    "xla_cpu_compilation_enabled",
    "platform_config_file",
    "version",
}


def flags_of(arguments: list[str]) -> dict[str, str]:
    """Returns the values of `--NAME=VALUE` arguments by name; each must appear once."""
    assert all(re.fullmatch(r"--[a-z_]+=\S+", argument) for argument in arguments), arguments
    flags = dict(argument[2:].split("=", 1) for argument in arguments)
    assert len(flags) == len(arguments)
    return flags


# The compose file with no variable set: ${NAME:-DEFAULT}.
_COMPOSE = yaml.safe_load(
    re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", (SERVING / "docker-compose.yml").read_text())
)["services"]
_OBJECTS = {o["kind"]: o for o in yaml.safe_load_all((SERVING / "kubernetes.yaml").read_text())}
_POD = _OBJECTS["Deployment"]["spec"]["template"]["spec"]
_CONTAINER = _POD["containers"][0]
_PROGRAM, *_ARGUMENTS = _COMPOSE["byol"]["entrypoint"]
_GPU_ARGUMENTS = [*_COMPOSE["byol-gpu"]["entrypoint"][1:], *_COMPOSE["byol-gpu"]["command"]]
COMPOSE_FLAGS, GPU_FLAGS, KUBERNETES_FLAGS = map(
    flags_of, (_ARGUMENTS, _GPU_ARGUMENTS, _CONTAINER["args"])
)
ALL_FLAGS = pytest.mark.parametrize("flags", [COMPOSE_FLAGS, GPU_FLAGS, KUBERNETES_FLAGS])


def model():
    config = text_format.Parse(
        (SERVING / "models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    )
    (result,) = config.model_config_list.config
    return result


# The config files.


def test_labels_name_versions_that_the_policy_serves():
    assert model().name == "byol"
    assert model().base_path == "/models/byol" and model().model_platform == "tensorflow"
    labels = dict(model().version_labels)
    assert set(labels) == {"stable", "canary"}
    assert set(labels.values()) == set(model().model_version_policy.specific.versions)


def test_batches_are_filled_up_by_a_half_at_most_and_to_the_largest():
    batching = settings_files.read_batching(SERVING / "batching.config")
    sizes = batching.allowed_batch_sizes
    assert sizes[0] == 1 and sizes[-1] == batching.max_batch_size
    # From one row more than a size to the next size.
    assert all(b <= 1.5 * (a + 1) for a, b in zip(sizes, sizes[1:], strict=False))


def test_single_images_of_many_clients_fill_two_batches():
    batching = settings_files.read_batching(SERVING / "batching.config")
    assert int(COMPOSE_FLAGS["grpc_max_threads"]) == 2 * batching.max_batch_size


def test_scrapers_look_where_the_metrics_are():
    path = settings_files.read_metrics_path(SERVING / "monitoring.config")
    annotations = _OBJECTS["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == path
    assert annotations["prometheus.io/port"] == KUBERNETES_FLAGS["rest_api_port"]


# Flags.


@ALL_FLAGS
def test_every_flag_is_one_of_tensorflow_model_server(flags):
    # The server ignores an unknown flag, after printing the usage.
    assert set(flags) <= KNOWN_FLAGS
    parallelism = {f"tensorflow_{kind}_parallelism" for kind in ("session", "intra_op", "inter_op")}
    assert not parallelism <= set(flags)  # All three are an error.


def test_the_program_is_the_server_itself():
    assert _PROGRAM == "tensorflow_model_server" == _COMPOSE["byol-gpu"]["entrypoint"][0]
    assert _CONTAINER["command"] == ["tensorflow_model_server"]


def test_deployments_differ_only_in_threads_connections_and_the_gpu():
    threads = {"tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism"}

    def common(flags):
        return {name: flags[name] for name in flags.keys() - threads - {"grpc_channel_arguments"}}

    assert common(COMPOSE_FLAGS) == common(KUBERNETES_FLAGS)
    assert GPU_FLAGS == COMPOSE_FLAGS | {"per_process_gpu_memory_fraction": "0.8"}


@pytest.mark.parametrize(
    ("flags", "limits"),
    [
        (COMPOSE_FLAGS, _COMPOSE["byol"]["deploy"]["resources"]["limits"]),
        (GPU_FLAGS, _COMPOSE["byol-gpu"]["deploy"]["resources"]["limits"]),
        (KUBERNETES_FLAGS, {"cpus": _CONTAINER["resources"]["limits"]["cpu"]}),
    ],
)
def test_tensorflow_has_as_many_threads_as_the_container_has_cores(flags, limits):
    assert flags["tensorflow_intra_op_parallelism"] == limits["cpus"]
    assert flags["tensorflow_inter_op_parallelism"] == limits["cpus"]


@pytest.fixture(scope="module")
def byol_serve_flags():
    """Names of byol-serve's flags; checks that it accepts the deployments' values of them."""
    # In another process: absl's flags are global, and other commands define some of the same names.
    code = """if True:
        import sys
        from absl import flags
        from serving.local_server import main

        main._define_flags()
        names = [flag.name for flag in flags.FLAGS.flags_by_module_dict()[main.__name__]]
        given = [argument for argument in sys.argv if argument[2:].split("=")[0] in names]
        assert flags.FLAGS(["byol-serve", *given]) == ["byol-serve"]
        print(*names)
        """
    command = [sys.executable, "-c", code, *_ARGUMENTS, *_CONTAINER["args"]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_byol_serve_takes_flags_of_tensorflow_model_server(byol_serve_flags):
    own = {"host", "grpc_default_timeout_in_ms", "allow_reload_config", "enable_grpc_reflection"}
    assert own <= byol_serve_flags and byol_serve_flags - own <= KNOWN_FLAGS
    assert {
        "model_config_file",
        "batching_parameters_file",
        "monitoring_config_file",
    } <= byol_serve_flags


# Images, mounts, ports, limits.


def test_images_are_pinned():
    images = [_COMPOSE["byol"]["image"], _COMPOSE["byol-gpu"]["image"], _CONTAINER["image"]]
    assert images == [f"tensorflow/serving:2.15.1{kind}" for kind in ("", "-gpu", "")]


def test_files_that_flags_name_are_mounted_in_a_folder_that_follows_changes():
    named = [pathlib.Path(value) for value in COMPOSE_FLAGS.values() if value.startswith("/")]
    assert sorted(path.name for path in named) == sorted(CONFIGS)
    mounts = {mount["target"]: mount for mount in _COMPOSE["byol"]["volumes"]}
    assert all(
        (SERVING / mounts[str(path.parent)]["source"] / path.name).is_file() for path in named
    )
    mounts = {mount["mountPath"]: mount for mount in _CONTAINER["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in _POD["volumes"]}
    for path in named:
        mount = mounts[str(path.parent)]
        assert "subPath" not in mount
        assert (
            volumes[mount["name"]]["configMap"]["name"] == _OBJECTS["ConfigMap"]["metadata"]["name"]
        )
        assert path.name in _OBJECTS["ConfigMap"]["data"]


def test_models_are_mounted_for_reading_where_the_config_looks():
    folder = str(pathlib.PurePath(model().base_path).parent)
    (mount,) = [mount for mount in _COMPOSE["byol"]["volumes"] if mount["target"] == folder]
    assert mount["read_only"] and mount["source"] == "./models"
    assert mount["bind"] == {"create_host_path": False}
    (mount,) = [mount for mount in _CONTAINER["volumeMounts"] if mount["mountPath"] == folder]
    assert mount["readOnly"]


def test_the_config_map_is_the_files():
    assert _OBJECTS["ConfigMap"]["data"] == {name: (SERVING / name).read_text() for name in CONFIGS}


def test_ports_are_the_same_everywhere():
    ports = [COMPOSE_FLAGS["port"], COMPOSE_FLAGS["rest_api_port"]]
    assert ports == ["8500", "8501"]
    for service in _COMPOSE.values():
        assert service["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports]
        assert f"/dev/tcp/127.0.0.1/{ports[1]} " in service["healthcheck"]["test"][-1]
    named = {port["name"]: str(port["containerPort"]) for port in _CONTAINER["ports"]}
    assert [named["grpc"], named["rest"]] == ports
    served = {
        port["targetPort"]: str(port["port"]) for port in _OBJECTS["Service"]["spec"]["ports"]
    }
    assert served == named
    for probe in ("startupProbe", "livenessProbe"):
        assert str(_CONTAINER[probe]["grpc"]["port"]) == named["grpc"]
    assert _CONTAINER["readinessProbe"]["httpGet"]["port"] == "rest"


def test_containers_run_without_root_on_a_root_they_cannot_write():
    for service in _COMPOSE.values():
        assert (
            service["read_only"]
            and service["cap_drop"] == ["ALL"]
            and not service["user"].startswith("0")
        )
        assert service["restart"] == "unless-stopped" and service["init"]
        threads = int(COMPOSE_FLAGS["grpc_max_threads"]) + int(
            COMPOSE_FLAGS["rest_api_num_threads"]
        )
        assert 2 * threads < service["pids_limit"] <= 4096
    assert _POD["securityContext"]["runAsNonRoot"] and _POD["securityContext"]["runAsUser"] > 0
    assert _CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    assert not _CONTAINER["securityContext"]["allowPrivilegeEscalation"]


def test_the_gpu_service_has_a_profile_and_a_device():
    assert _COMPOSE["byol-gpu"]["profiles"] == ["gpu"] and "profiles" not in _COMPOSE["byol"]
    (device,) = _COMPOSE["byol-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


# Kubernetes: selectors and times.


def test_selectors_find_the_pods():
    labels = _OBJECTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert _OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert _OBJECTS["Service"]["spec"]["selector"] == labels
    assert _OBJECTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert _POD["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"] == labels
    target = _OBJECTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == _OBJECTS["Deployment"]["metadata"]["name"]
    assert "replicas" not in _OBJECTS["Deployment"]["spec"]  # They would contradict the autoscaler.


def test_only_named_clients_reach_the_pods_and_the_pods_reach_nobody():
    policy = _OBJECTS["NetworkPolicy"]["spec"]
    labels = _OBJECTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert policy["policyTypes"] == ["Ingress", "Egress"] and policy["egress"] == []
    (rule,) = policy["ingress"]
    # An empty selector, or none, would mean every pod.
    assert rule["from"] == [{"podSelector": {"matchLabels": {"byol-client": "true"}}}]
    assert {port["port"] for port in rule["ports"]} == {p["name"] for p in _CONTAINER["ports"]}


def test_readiness_asks_for_a_label_that_exists_and_grpc_probes_are_answered():
    path = _CONTAINER["readinessProbe"]["httpGet"]["path"]
    name, label = re.fullmatch("/v1/models/([^/]+)/labels/([^/]+)/metadata", path).groups()
    assert name == model().name and label in model().version_labels
    assert KUBERNETES_FLAGS["enable_grpc_healthcheck_service"] == "true"
    assert _CONTAINER["livenessProbe"]["grpc"]["service"] in ("PredictionService", "ModelService")


def test_start_up_allows_for_the_retries_of_a_load():
    retries = int(KUBERNETES_FLAGS["max_num_load_retries"])
    seconds = retries * int(KUBERNETES_FLAGS["load_retry_interval_micros"]) / 1e6
    allowed = (
        _CONTAINER["startupProbe"]["periodSeconds"] * _CONTAINER["startupProbe"]["failureThreshold"]
    )
    assert 2 * seconds < allowed < _OBJECTS["Deployment"]["spec"]["progressDeadlineSeconds"]


def test_a_pod_ends_after_its_last_connection_and_call():
    command = _CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    key, age = KUBERNETES_FLAGS["grpc_channel_arguments"].split("=")
    assert key == "grpc.max_connection_age_ms"
    out_of_the_service, jitter, call = (
        5,
        1.1,
        int(KUBERNETES_FLAGS["rest_api_timeout_in_ms"]) / 1000,
    )
    needed = out_of_the_service + jitter * int(age) / 1000 + call
    assert needed < int(command[1]) < _POD["terminationGracePeriodSeconds"]


# The health check.


def health(port: int) -> bool:
    command = [word.replace("8501", str(port)) for word in _COMPOSE["byol"]["healthcheck"]["test"]]
    assert command.pop(0) == "CMD"
    return subprocess.run(command, timeout=10, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("code", "status", "healthy"),
    [
        (200, [("END", "UNAVAILABLE"), ("AVAILABLE", "OK")], True),
        (200, [("END", "UNAVAILABLE"), ("LOADING", "OK")], False),
        (404, [], False),
    ],
)
def test_health_is_a_version_that_is_available(code, status, healthy):
    asked = []
    states = [{"state": state, "status": {"error_code": error}} for state, error in status]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps({"model_version_status": states}).encode())

        def log_message(self, *unused):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as fake:
        threading.Thread(target=fake.serve_forever, daemon=True).start()
        try:
            assert health(fake.server_port) == healthy
        finally:
            fake.shutdown()
    assert asked == ["/v1/models/byol"]


def test_health_is_not_where_nobody_listens():
    assert not health(free_port())


# byol-serve with these files.


@pytest.fixture(scope="module")
def production(byol_serve_flags, encoder_dir, tmp_path_factory):
    """byol-serve with the compose file's flags and config files, but other paths and ports."""
    folder = tmp_path_factory.mktemp("production")
    for name in CONFIGS:
        text = (SERVING / name).read_text()
        (folder / name).write_text(text.replace(f'"{model().base_path}"', f'"{encoder_dir}"'))
    names = COMPOSE_FLAGS.keys() & byol_serve_flags - {"port", "rest_api_port"}
    flags = [f"--{name}={COMPOSE_FLAGS[name].replace('/config', str(folder))}" for name in names]
    with Server(folder / "log", *flags) as running:
        yield running


@pytest.mark.slow
def test_byol_serve_runs_with_the_production_files(production):
    image = next((ROOT / "examples/images/test/cat").glob("*.jpg")).read_bytes()
    for label in model().version_labels:
        answer = requests.post(
            f"{production.url}/v1/models/byol/labels/{label}:predict",
            json={"instances": [{"b64": base64.b64encode(image).decode()}]},
        )
        assert answer.status_code == 200 and len(answer.json()["predictions"]) == 1
    readiness = _CONTAINER["readinessProbe"]["httpGet"]["path"]
    assert requests.get(production.url + readiness).status_code == 200
    metrics = requests.get(
        production.url + settings_files.read_metrics_path(SERVING / "monitoring.config")
    )
    assert ":tensorflow:serving:request_count" in metrics.text
    assert health(production.rest_port)


# TLS.md.


@pytest.fixture(scope="module")
def tls_folder(tmp_path_factory):
    """Folder in which TLS.md's shell blocks have run."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl")
    folder = tmp_path_factory.mktemp("tls")
    blocks = re.findall(
        r"<!-- run -->\n```sh\n(.*?)```", (SERVING / "TLS.md").read_text(), re.DOTALL
    )
    assert len(blocks) == 2
    done = subprocess.run(
        ["sh", "-euc", "\n".join(blocks)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["server.pem: OK", "client.pem: OK"]
    return folder


def test_ssl_config_holds_the_exact_files_and_only_its_owner_reads_it(tls_folder):
    config = settings_files.read_ssl(tls_folder / "ssl.config")
    for field, name in (
        ("server_key", "server.key"),
        ("server_cert", "server.pem"),
        ("custom_ca", "ca.pem"),
    ):
        assert getattr(config, field) == (tls_folder / name).read_text()
    assert config.client_verify
    assert (tls_folder / "ssl.config").stat().st_mode & 0o077 == 0
    assert tls.context(config)


def test_a_client_connects_as_tls_md_says_and_none_without_certificate(tls_folder, monkeypatch):
    monkeypatch.chdir(tls_folder)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    credentials = tls.credentials(settings_files.read_ssl("ssl.config"))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        page = (SERVING / "TLS.md").read_text()
        (block,) = re.findall("<!-- run -->\n```python\n(.*?)```", page, re.DOTALL)
        names = {}
        exec(block.replace(":8500", f":{port}"), names)
        with names["client"] as client, pytest.raises(EmbeddingError) as error:
            client.version()
        assert error.value.code == "UNIMPLEMENTED"  # From the server, which has no services.
        stranger = EmbeddingClient(f"localhost:{port}", tls=Tls("ca.pem"), retries=0)
        with stranger, pytest.raises(EmbeddingError) as error:
            stranger.version()
        assert error.value.code == "UNAVAILABLE"
    finally:
        server.stop(None)
