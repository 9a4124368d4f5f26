"""Files are there whole, and on the disk before they have their name."""

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from kinmass.gen.storage.files import append_lines, aside, make_folder, require_writable, sync_folder, write_atomically

CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS, errno.EACCES, errno.EPERM, errno.EBADF)


@pytest.fixture
def calls(monkeypatch):
    """Calls of the system in order, as ("sync" or "rename", name of the file)."""
    noted = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(number):
        noted.append(("sync", Path(os.readlink(f"/proc/self/fd/{number}")).name))
        fsync(number)

    def noted_replace(a, b):
        noted.append(("rename", Path(b).name))
        replace(a, b)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return noted


def test_content_is_on_the_disk_before_the_name_and_the_name_before_it_goes_on(tmp_path, calls):
    write_atomically(tmp_path / "a.json", "é")
    (first, partial), *later_calls = calls
    assert first == "sync"
    assert partial.endswith("a.json")
    assert partial != "a.json"
    assert later_calls == [("rename", "a.json"), ("sync", tmp_path.name)]
    assert (tmp_path / "a.json").read_bytes() == "é".encode()
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("number", CANNOT)
@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_folder_that_cannot_be_synced_is_none_the_worse(tmp_path, monkeypatch, number, call):
    real = getattr(os, call)

    def refuse(target, *arguments):
        is_folder = stat.S_ISDIR(os.fstat(target).st_mode) if call == "fsync" else os.path.isdir(target)
        if is_folder:
            raise OSError(number, os.strerror(number))
        return real(target, *arguments)

    monkeypatch.setattr(os, call, refuse)
    write_atomically(tmp_path / "a", b"there")
    assert (tmp_path / "a").read_bytes() == b"there"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_broken_or_full_is_said_and_the_old_file_stays(tmp_path, monkeypatch, number):
    write_atomically(tmp_path / "a", "old")

    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        write_atomically(tmp_path / "a", "new", keep=tmp_path / "previous")
    with pytest.raises(OSError, match=os.strerror(number)):
        sync_folder(tmp_path)
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_what_fails_on_the_way_leaves_what_was_there(tmp_path):
    write_atomically(tmp_path / "a", "old")

    def interrupted():
        with aside(tmp_path / "a") as partial:
            partial.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_is_said_of_a_file(tmp_path):
    """Python's own error says no name."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*a\.json'"):
            write_atomically(tmp_path / "a.json", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


def test_what_was_there_can_be_kept(tmp_path):
    for text in ("one", "two", "three"):
        write_atomically(tmp_path / "a", text, keep=tmp_path / "before")
    assert (tmp_path / "a").read_text() == "three"
    assert (tmp_path / "before").read_text() == "two"


def test_folders_are_replaced_whole(tmp_path):
    for content in ("old", "new"):
        with aside(tmp_path / "group.zarr") as partial:
            (partial / "c").mkdir(parents=True)
            (partial / "c" / content).write_text(content)
    assert os.listdir(tmp_path) == ["group.zarr"]
    assert os.listdir(tmp_path / "group.zarr" / "c") == ["new"]


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path):
    texts = [str(i) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=write_atomically, args=(tmp_path / "a", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in texts
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_killed_writer_left_goes_with_time_and_what_another_writes_stays(tmp_path):
    names = [f".partial-{'0' * 12}-a", f".partial-{'1' * 12}-a", f".partial-{'0' * 12}-ba"]
    for name in names:
        (tmp_path / name).write_text("half")
    os.utime(tmp_path / names[0], (0, 0))
    os.utime(tmp_path / names[2], (0, 0))
    write_atomically(tmp_path / "a", "whole")
    assert sorted(os.listdir(tmp_path)) == sorted(["a", *names[1:]])


def test_long_names_and_links(tmp_path):
    long = tmp_path / ("ü" * 125 + ".json")  # 255 bytes
    write_atomically(long, "x")
    (tmp_path / "link").symlink_to(long)
    write_atomically(tmp_path / "link", "y")
    assert long.read_text() == "y"
    assert (tmp_path / "link").is_symlink()


def test_a_pipe_is_written_as_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    texts = []
    reader = threading.Thread(target=lambda: texts.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_atomically(tmp_path / "pipe", "through")
    reader.join(10)
    assert texts == ["through"]
    assert (tmp_path / "pipe").is_fifo()


def test_lines_are_added_behind_one_that_was_cut_short(tmp_path, calls):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"b"')
    append_lines(tmp_path / "a.jsonl", ['{"c": 3}'])
    append_lines(tmp_path / "a.jsonl", ['{"d": 4}', '{"e": 5}'])
    assert (tmp_path / "a.jsonl").read_text().splitlines() == ['{"a": 1}', '{"b"', '{"c": 3}', '{"d": 4}', '{"e": 5}']
    assert ("sync", "a.jsonl") in calls
    assert ("sync", tmp_path.name) in calls


def test_new_folders_are_known_to_the_disk(tmp_path, calls):
    make_folder(tmp_path / "a" / "b")
    assert {name for _, name in calls} == {"a", tmp_path.name}


def test_a_pipe_by_another_name_is_written_as_it_is(tmp_path):
    """/dev/stdout leads to a pipe, to which no path leads."""
    end, other_end = os.pipe()
    try:
        write_atomically(Path(f"/dev/fd/{other_end}"), "text")
        assert os.read(end, 10) == b"text"
    finally:
        os.close(end), os.close(other_end)


def test_what_cannot_be_written_is_said_before_it_is_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match=r"a file is there, and no folder.*file'"):
            require_writable(path)
    with pytest.raises(IsADirectoryError, match=r"a folder of this name is there already.*folder'"):
        write_atomically(tmp_path / "folder", "text")
    require_writable(tmp_path / "new" / "folder")
    assert not any((tmp_path / "new" / "folder").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "new"]
