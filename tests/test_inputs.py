"""From paths to the list of images."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

from spheroseg.errors import UnreadableInput
from spheroseg.run.inputs import find_inputs, find_names
from spheroseg.segmentation.planes import PlaneChoice
from spheroseg.storage import ImageStore

EXAMPLE = (Path(__file__).parents[1] / "examples" / "spheroids" / "image_08.png").read_bytes()


def write(path: Path, content: bytes = EXAMPLE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_folder_is_searched_to_its_depth_and_numbers_are_in_order(tmp_path: Path) -> None:
    for name in ("t10.png", "t2.png", "day1/a.TIF", "day1/notes.txt", ".hidden.png", ".git/x.png"):
        write(tmp_path / name)
    listing = find_inputs([tmp_path])
    assert [item.name for item in listing.inputs] == ["day1/a.TIF", "t2.png", "t10.png"]
    assert listing.skipped == ["day1/notes.txt"]


def test_files_are_named_from_their_common_folder_and_taken_once(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a" / "x.png"), write(tmp_path / "b" / "x.png")
    listing = find_inputs([first, second, tmp_path / "a"])
    assert [item.name for item in listing.inputs] == ["a/x.png", "b/x.png"]
    assert [item.name for item in find_inputs([first]).inputs] == ["x.png"]


def test_a_named_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    listing = find_inputs([write(tmp_path / "picture.dat")])
    assert [item.name for item in listing.inputs] == ["picture.dat"]


def test_images_in_a_zip_are_read_without_unpacking(tmp_path: Path) -> None:
    archive = tmp_path / "plate::1.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("day 1/a.png", EXAMPLE)
        opened.writestr("readme.txt", "x")
        opened.writestr("__MACOSX/._a.png", "x")
    listing = find_inputs([tmp_path])
    (item,) = listing.inputs
    assert item.name == "plate::1.zip/day 1/a.png"
    assert listing.skipped == ["plate::1.zip/readme.txt"]
    with ImageStore(tmp_path / "nowhere").open(item.storage_key) as file:
        assert file.read() == EXAMPLE


def test_each_page_of_a_stack_is_an_image(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((3, 40, 50), np.uint8), photometric="minisblack")
    listing = find_inputs([tmp_path])
    assert [(item.label, item.page, item.pages) for item in listing.inputs] == [
        ("stack.tif page 1", 0, 3),
        ("stack.tif page 2", 1, 3),
        ("stack.tif page 3", 2, 3),
    ]


def test_a_stack_that_needs_a_choice_is_listed_with_the_question(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 2, 40, 50), np.uint8)
    metadata = {"axes": "TZCYX", "finterval": 2, "tunit": "h"}
    tifffile.imwrite(tmp_path / "stack.tif", pixels, imagej=True, metadata=metadata)
    write(tmp_path / "t2.png")
    asked, plain = find_inputs([tmp_path]).inputs
    assert asked.problem is not None
    assert asked.problem[0] == "choose_plane"
    assert "3 z planes and 2 channels" in asked.problem[1]
    assert (asked.label, plain.problem) == ("stack.tif", None)

    *found, plain = find_inputs([tmp_path], choice=PlaneChoice(z=2, channel=1)).inputs
    assert [(item.label, item.t, item.z, item.channel, item.time_h) for item in found] == [
        ("stack.tif page 3", 1, 2, 1, 0),
        ("stack.tif page 9", 2, 2, 1, 2),
    ]
    assert {item.sha256 for item in found} != {""}
    assert (plain.label, plain.z, plain.time_h) == ("t2.png", None, None)
    assert len(find_inputs([tmp_path], choice=PlaneChoice(z="all", channel="all")).inputs) == 13


def test_a_damaged_zip_is_named_with_its_problem_and_the_rest_is_listed(tmp_path: Path) -> None:
    write(tmp_path / "broken.zip", b"PK\x03\x04 not an archive")
    write(tmp_path / "good.png")
    broken, good = find_inputs([tmp_path]).inputs
    assert broken.problem is not None
    assert broken.problem[0] == "unreadable"
    assert "zip" in broken.problem[1]
    assert good.problem is None


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match=r"no such file or folder: .*nowhere"):
        find_inputs([tmp_path / "nowhere"])


def test_what_a_run_has_written_is_never_an_input(tmp_path: Path) -> None:
    for name in ("a.png", "overlays/b.png", "results/overlays/a.png", "results/.spheroseg/x.png", "results/c.png"):
        write(tmp_path / name)
    assert [item.name for item in find_inputs([tmp_path]).inputs] == ["a.png", "overlays/b.png", "results/c.png"]


def test_a_change_in_a_file_changes_its_checksum(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    before = find_inputs([tmp_path]).inputs[0].sha256
    write(path, EXAMPLE + b"x")
    assert find_inputs([tmp_path]).inputs[0].sha256 != before


def test_listing_names_alone_gives_the_names_of_the_inputs(tmp_path: Path) -> None:
    for name in ("b/t10.png", "b/t2.tif", "a.jpg", "notes.txt"):
        write(tmp_path / name)
    (tmp_path / "broken.zip").write_bytes(b"no archive")
    names, inputs = find_names([tmp_path]), find_inputs([tmp_path])
    assert [item.name for item in names.inputs] == [item.name for item in inputs.inputs]
    assert names.skipped == inputs.skipped
    assert {item.sha256 for item in names.inputs} == {""}
