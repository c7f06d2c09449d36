"""Which folders are versions, which of them are wanted, and whether their files still change."""

import os
import time

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.local_server import disk_versions


@pytest.fixture
def base(tmp_path):
    for name in ("1", "2", "010", "tmp-3", "v4", "0.1", "5.tmp", "-6", "٧", "99999999999999999999"):
        (tmp_path / name).mkdir()
    return tmp_path


def wanted(base, policy=""):
    text = f'name: "m" base_path: "{base}" {policy and f"model_version_policy {{ {policy} }}"}'
    found = disk_versions.wanted(text_format.Parse(text, model_server_config_pb2.ModelConfig()))
    assert all(os.path.isdir(path) for path in found.values())
    return sorted(found)


def test_only_whole_numbers_are_versions(base):
    assert disk_versions.on_disk(str(base)) == {1: f"{base}/1", 2: f"{base}/2", 10: f"{base}/010"}


def test_of_two_names_for_one_number_the_later_counts(base):
    (base / "001").mkdir()
    assert disk_versions.on_disk(str(base))[1] == f"{base}/1"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", [10]),
        ("latest {}", [10]),
        ("latest { num_versions: 2 }", [2, 10]),
        ("latest { num_versions: 9 }", [1, 2, 10]),
        ("all {}", [1, 2, 10]),
        ("specific { versions: 1 versions: 2 }", [1, 2]),
        ("specific { versions: 1 versions: 7 }", [1]),
    ],
)
def test_policies(base, policy, expected):
    assert wanted(base, policy) == expected


def test_no_folder_is_an_error_and_an_empty_one_has_no_versions(tmp_path):
    assert disk_versions.on_disk(str(tmp_path)) == {}
    with pytest.raises(FileNotFoundError):
        disk_versions.on_disk(str(tmp_path / "none"))


def test_a_copied_time_of_modification_does_not_make_a_file_old(tmp_path):
    assert disk_versions.fingerprint(str(tmp_path))[1] == 0
    file = tmp_path / "variables" / "data"
    file.parent.mkdir()
    file.write_bytes(b"1")
    os.utime(file, (1, 1))
    first, age = disk_versions.fingerprint(str(tmp_path))
    assert age < 1
    time.sleep(0.2)
    again, age = disk_versions.fingerprint(str(tmp_path))
    assert again == first and age >= 0.2
    with file.open("ab") as opened:
        opened.write(b"2")
    changed, age = disk_versions.fingerprint(str(tmp_path))
    assert changed != first and age < 0.2
