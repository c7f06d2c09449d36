"""The Kubernetes manifests of deploy/: Kubernetes knows their fields, our commands their flags."""

import json
import pathlib
import re

import commands
import pytest
import yaml

from byol_tf.training import cluster

jsonschema = pytest.importorskip("jsonschema")  # TFX brings it.

ROOT = pathlib.Path(__file__).resolve().parent.parent
# JobSet's own schema (kubernetes-sigs/jobset, v1alpha2 of August 2026) without its descriptions. It
# contains Kubernetes' schema of a job and its pods.
JOBSET_SCHEMA = json.loads((ROOT / "tests/golden/jobset-v1alpha2.json").read_text())

jobset = yaml.safe_load((ROOT / "deploy/training-jobset.yaml").read_text())
cronjob = yaml.safe_load((ROOT / "deploy/pipeline-cronjob.yaml").read_text())
job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


def strict(schema):
    """Returns the schema with fields refused that it does not name, as `kubectl` does."""
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        schema.setdefault("additionalProperties", bool(not schema["properties"]))
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type", None)
        schema.pop("format", None)
    return schema


def properties(schema, *path):
    for name in path:
        schema = schema["items"] if name == "items" else schema["properties"][name]
    return schema


def flags_of(pod) -> tuple[str, list[str]]:
    program, *arguments = pod["template"]["spec"]["containers"][0]["command"]
    return program, [re.fullmatch(r"--([a-z_.]+)=\S+", argument)[1] for argument in arguments]


def test_jobset_has_the_fields_of_its_schema():
    schema = strict(JOBSET_SCHEMA)
    # The API server fills these in; a manifest has any.
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(jobset, schema)
    broken = json.loads(json.dumps(jobset))
    broken["spec"]["replicatedJobs"][0]["template"]["spec"]["paralelism"] = 2
    with pytest.raises(jsonschema.ValidationError, match="paralelism"):
        jsonschema.validate(broken, schema)


def test_cron_job_has_the_fields_of_a_job():
    path = ("spec", "replicatedJobs", "items", "template", "spec")
    jsonschema.validate(
        cronjob["spec"]["jobTemplate"]["spec"], strict(properties(JOBSET_SCHEMA, *path))
    )


@pytest.mark.parametrize(
    ("pod", "module"),
    [
        (job, "byol_tf.cli.pretrain"),
        (cronjob["spec"]["jobTemplate"]["spec"], "pipelines.runners.local"),
    ],
)
def test_command_knows_its_flags(pod, module):
    if module.startswith("pipelines"):
        pytest.importorskip("tfx")
    program, given = flags_of(pod)
    scripts = (ROOT / "setup.cfg").read_text()
    assert re.search(rf"^\s*{program} = {re.escape(module)}:", scripts, re.MULTILINE)
    known = commands.run_command(module, "--help").stdout
    for flag in given:
        assert f"--{flag.partition('.')[0]}:" in known or f"]{flag}:" in known, flag


def test_workers_find_each_other_by_the_variables_of_the_jobset(monkeypatch):
    assert job["parallelism"] == job["completions"]
    container = job["template"]["spec"]["containers"][0]
    variables = {variable["name"]: variable for variable in container["env"]}
    labels = {
        "metadata.labels['jobset.sigs.k8s.io/jobset-name']": jobset["metadata"]["name"],
        "metadata.labels['jobset.sigs.k8s.io/replicatedjob-name']": jobset["spec"][
            "replicatedJobs"
        ][0]["name"],
    }
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")  # Kubernetes does, in an indexed job.
    for name, variable in variables.items():
        value = variable.get("value")
        monkeypatch.setenv(name, value or labels[variable["valueFrom"]["fieldRef"]["fieldPath"]])
    found = cluster.resolver()
    # A pod's name by JobSet's documentation: <JobSet>-<job>-<number>-<pod>.<subdomain>.
    port = container["ports"][0]["containerPort"]
    assert found.cluster_spec().as_dict() == {
        "worker": [f"byol-workers-0-{pod}.byol:{port}" for pod in range(job["parallelism"])]
    }
    assert found.task_id == 1


def test_both_manifests_keep_containers_from_more_rights_than_they_need():
    for pod in (job, cronjob["spec"]["jobTemplate"]["spec"]):
        spec = pod["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
