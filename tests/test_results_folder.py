from collections.abc import Iterator
from pathlib import Path

import pytest

from spheroseg.run.results_folder import ResultsFolder


def folder(out: Path) -> ResultsFolder:
    return ResultsFolder(out, out / "journal")


def names(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*")} - {"journal"}


def test_own_files_are_renewed_and_edited_files_are_kept(tmp_path: Path) -> None:
    first = folder(tmp_path)
    assert not first.put("rois/a.zip", b"one")["edited"]
    first.put("rois/b.zip", b"one")
    first.remove_outdated()
    (tmp_path / "rois" / "b.zip").write_bytes(b"by hand")
    second = folder(tmp_path)
    assert not second.put("rois/a.zip", b"two")["edited"]
    assert second.put("rois/b.zip", b"two")["edited"]
    second.remove_outdated()
    assert (tmp_path / "rois" / "a.zip").read_bytes() == b"two"
    assert (tmp_path / "rois" / "b.zip").read_bytes() == b"by hand"


def test_a_file_from_before_the_first_run_is_kept(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_bytes(b"somebody's")
    assert folder(tmp_path).stream("coco.json", [b"ours"]) == {"path": "coco.json", "sha256": None, "edited": True}
    assert (tmp_path / "coco.json").read_bytes() == b"somebody's"


def test_a_run_that_was_killed_before_it_finished_knows_its_files_again(tmp_path: Path) -> None:
    killed = folder(tmp_path)
    killed.put("rois/a.zip", b"one")
    killed.stream("coco.json", [b"o", b"ne"])
    with (tmp_path / "journal").open("a") as journal:
        journal.write('\n0123 "rois/b')  # the line that it was writing
    second = folder(tmp_path)
    assert not second.put("rois/a.zip", b"two")["edited"]
    second.remove_outdated()
    third = folder(tmp_path)
    assert not third.put("rois/a.zip", b"three")["edited"]
    third.remove_outdated()
    assert names(tmp_path) == {"rois", "rois/a.zip"}


def test_a_stream_that_fails_leaves_the_old_file_whole(tmp_path: Path) -> None:
    folder(tmp_path).stream("coco.json", [b"old"])

    def failing() -> Iterator[bytes]:
        yield b"new"
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        folder(tmp_path).stream("coco.json", failing())
    assert (tmp_path / "coco.json").read_bytes() == b"old"
    assert names(tmp_path) == {"coco.json"}


def test_an_outdated_file_is_removed_with_its_folder_unless_it_was_edited(tmp_path: Path) -> None:
    first = folder(tmp_path)
    for path in ("rois/a.zip", "geojson/a.geojson", "geojson/b.geojson"):
        first.put(path, b"one")
    first.replace("results.csv", b"table")
    first.remove_outdated()
    (tmp_path / "geojson" / "b.geojson").write_bytes(b"by hand")
    folder(tmp_path).remove_outdated()
    assert names(tmp_path) == {"geojson", "geojson/b.geojson", "results.csv"}
