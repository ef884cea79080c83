"""The zip of a run, opened by the libraries that its readers use."""

import hashlib
import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from rocrate.rocrate import ROCrate

from spheroseg.export.bundle import CHUNK_BYTES, stream_bundle

MANIFEST: dict[str, Any] = {
    "spheroseg": "1.2.3",
    "written_at": "2026-11-24T21:30:02+00:00",
    "asked_for": {
        "model": "some-model",
        "model_version": "4",
        "model_sha256": "ab" * 32,
        "parameters": {"threshold": 0.5, "min_area_px": None},
        "pixel_size_um": 0.65,
    },
    "inputs": [{"image": "a.png"}],
}


def run_files(folder: Path) -> dict[str, Path]:
    contents = {
        "results.csv": b"image,area_px2\n" * 1000,
        "masks/Sphäroid 1.tif": b"II*\0" + bytes(50),
        "overlays/empty.png": b"",
        "rois/a b#1.zip": b"PK",
    }
    files = {}
    for number, (name, content) in enumerate(contents.items()):
        files[name] = folder / str(number)
        files[name].write_bytes(content)
    return files


def test_every_file_is_in_the_zip_with_its_size_and_checksum(tmp_path: Path) -> None:
    files = run_files(tmp_path)
    with zipfile.ZipFile(io.BytesIO(b"".join(stream_bundle(files, MANIFEST)))) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names == [*sorted(files), "ro-crate-metadata.json", "manifest.json"]
        manifest = json.loads(archive.read("manifest.json"))
        assert {name: manifest[name] for name in MANIFEST} == MANIFEST
        assert sorted(manifest["files"]) == sorted(set(names) - {"manifest.json"})
        for name, described in manifest["files"].items():
            content = archive.read(name)
            assert described == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, path in files.items():
            assert archive.read(name) == path.read_bytes()
        assert archive.getinfo("results.csv").compress_size < 1000
        assert archive.getinfo("results.csv").date_time == (2026, 11, 24, 21, 30, 2)


def test_its_metadata_are_an_ro_crate_that_describes_how_the_files_were_made(tmp_path: Path) -> None:
    files = run_files(tmp_path)
    with zipfile.ZipFile(io.BytesIO(b"".join(stream_bundle(files, MANIFEST)))) as archive:
        archive.extractall(tmp_path / "crate")
    crate = ROCrate(tmp_path / "crate")
    described = {str(entity.id) for entity in crate.get_by_type("File")}
    assert len(described) == len(files) + 1, "these and the manifest"
    assert {"results.csv", "masks/Sph%C3%A4roid%201.tif", "rois/a%20b%231.zip", "manifest.json"} < described
    assert all((tmp_path / "crate" / name).exists() for name in files)
    (action,) = crate.get_by_type("CreateAction")
    assert {entity["name"] for entity in action["instrument"]} == {"spheroseg", "some-model"}
    assert {entity["name"]: entity["value"] for entity in action["object"]} == {
        "threshold": 0.5,
        "min_area_px": "default",
        "pixel_size_um": 0.65,
    }
    table = crate.get("results.csv")
    assert table["sha256"] == hashlib.sha256(files["results.csv"].read_bytes()).hexdigest()
    assert "license" not in crate.root_dataset.properties(), "the results are the user's"


def test_the_zip_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(40 * CHUNK_BYTES)
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in stream_bundle({"masks/large.tif": large}, MANIFEST))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 40 * CHUNK_BYTES
    assert peak < 8 * CHUNK_BYTES


def test_files_too_large_for_plain_zip_use_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = run_files(tmp_path)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 20)
    content = b"".join(stream_bundle(files, MANIFEST))
    monkeypatch.undo()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert archive.read("results.csv") == files["results.csv"].read_bytes()
