"""Which folders are versions, which of them are wanted, and whether their files still change."""

import errno
import os
import time

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.local_server import disk_versions
from serving.local_server.status import StatusError


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


def test_a_version_of_readable_files_passes_the_check(tmp_path):
    (tmp_path / "1" / "assets").mkdir(parents=True)
    (tmp_path / "1" / "assets" / "a").write_bytes(b"1")
    (tmp_path / "1" / "link").symlink_to("assets")
    disk_versions.check(str(tmp_path / "1"))


@pytest.mark.parametrize("call", ["stat", "listdir"])
def test_what_may_not_be_read_is_named_and_stops_no_look(tmp_path, monkeypatch, call):
    (tmp_path / "closed").mkdir()
    (tmp_path / "data").write_bytes(b"1")
    real = getattr(os, call)

    def refuse(path):
        if path == str(tmp_path / "closed"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path)

    monkeypatch.setattr(os, call, refuse)
    seen, _ = disk_versions.fingerprint(str(tmp_path))
    assert seen == disk_versions.fingerprint(str(tmp_path))[0] and len(seen) == 2
    with pytest.raises(StatusError, match="closed of the model: Permission denied"):
        disk_versions.check(str(tmp_path))


def test_links_that_multiply_end_after_ten_thousand_files(tmp_path):
    for number in range(40):
        (tmp_path / str(number)).mkdir()
        for name in ("a", "b"):
            (tmp_path / str(number) / name).symlink_to(f"../{number + 1}")
    (tmp_path / "40").mkdir()
    assert len(disk_versions.fingerprint(str(tmp_path / "0"))[0]) < 10_001
    with pytest.raises(StatusError, match=r"more than 10000 files|symbolic links"):
        disk_versions.check(str(tmp_path / "0"))
