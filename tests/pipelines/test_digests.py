import re
import shutil

import pytest

from pipelines import digests


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Makes a library of two modules and a folder that does not count; digests a copy of it."""

    def write(folder):
        for name in ("a.py", "sub/b.py", "cli/main.py", "notes.md"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"# {name}\n")

    folder = tmp_path / "checkout" / "lib"
    write(folder)
    monkeypatch.setattr(digests, "_SOURCES", ((folder, ("cli",)),))
    return folder


def test_the_digest_of_the_library_is_twelve_hex_digits_every_time():
    assert re.fullmatch("[0-9a-f]{12}", digests.code_digest())
    assert digests.code_digest() == digests.code_digest()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "sub/b.py").write_text("# B.py\n"),
        lambda folder: (folder / "a.py").rename(folder / "c.py"),
        lambda folder: (folder / "sub/c.py").touch(),
        lambda folder: (folder / "a.py").unlink(),
    ],
)
def test_a_change_of_code_changes_it(sources, change):
    before = digests.code_digest()
    change(sources)
    assert digests.code_digest() != before


def test_what_decides_nothing_does_not(sources):
    before = digests.code_digest()
    (sources / "cli/main.py").write_text("# other\n")
    (sources / "notes.md").write_text("other\n")
    (sources / "a.py").touch()
    assert digests.code_digest() == before


def test_nor_does_where_it_is_installed(sources, tmp_path, monkeypatch):
    before = digests.code_digest()
    moved = shutil.copytree(sources, tmp_path / "site-packages" / "lib")
    monkeypatch.setattr(digests, "_SOURCES", ((moved, ("cli",)),))
    assert digests.code_digest() == before
