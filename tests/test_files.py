"""Atomic writes: the content or the old file, never a part of it, and nothing left behind."""

import pytest

from byol_tf.files import replacing, write_atomically


@pytest.mark.parametrize("content", ["text, ü\n", b"bytes \xff\n", "", b""])
def test_text_and_bytes_are_written_as_they_are(tmp_path, content):
    path = tmp_path / "file"
    write_atomically(str(path), content)
    written = path.read_text() if isinstance(content, str) else path.read_bytes()
    assert written == content
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_file_is_replaced(tmp_path):
    path = tmp_path / "file"
    path.write_text("a longer text than the new one")
    write_atomically(str(path), "new")
    assert path.read_text() == "new"


def test_path_appears_only_when_the_writer_is_done(tmp_path):
    path = tmp_path / "file"
    with replacing(str(path)) as temporary:
        with open(temporary, "w") as file:
            file.write("content")
        assert not path.exists()
    assert path.read_text() == "content"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="full"), replacing(str(path)) as temporary:
        with open(temporary, "w") as file:
            file.write("half")
        raise RuntimeError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_before_it_writes_raises_its_own_error(tmp_path):
    with pytest.raises(RuntimeError, match="early"), replacing(str(tmp_path / "file")):
        raise RuntimeError("early")
    assert not list(tmp_path.iterdir())
