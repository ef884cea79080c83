"""Exports, read back by the libraries that their users use."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools.coco import COCO
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi, roiread
from skimage.draw import polygon2mask

from spheroseg.export.coco import CocoFile
from spheroseg.export.geojson import encode_geojson
from spheroseg.export.rois import encode_rois
from spheroseg.segmentation.contours import trace
from spheroseg.segmentation.instances import find_instances
from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.measure import measure

SHAPE = (240, 320)
# pycocotools uses parts of NumPy that are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
TASK = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
Labels = npt.NDArray[np.uint16]
Scene = tuple[Labels, dict[str, Any]]


def disk(x: float, y: float, radius: float) -> npt.NDArray[np.float32]:
    """Return the distance in px from the outline, positive inside. x, y: from the corner of the first pixel."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.asarray(radius - np.hypot(columns + 0.5 - x, rows + 0.5 - y), np.float32)


def scene(
    depth: npt.NDArray[np.float32], distance: npt.NDArray[np.float32] | None = None, um: float | None = None
) -> Scene:
    """Return what the pipeline would record of objects where `depth` (px) is positive."""
    probability = np.asarray(np.clip(0.5 + depth / 4, 0, 1), np.float32)
    instances = None if distance is None else find_instances(Maps(probability, distance), 0.5, SHAPE)
    labels, outlines = trace(probability, 0.5, 50, instances)
    objects = [
        {
            "outer": np.round(outline.outer, 3).tolist(),
            "holes": [np.round(hole, 3).tolist() for hole in outline.holes],
            "measurements": asdict(measure(outline)),
            "flags": [],
        }
        for outline in outlines
    ]
    return labels, {
        "width": SHAPE[1],
        "height": SHAPE[0],
        "pixel_size": {"um": um, "source": "option"} if um else None,
        "objects": objects,
    }


def plain() -> Scene:
    return scene(disk(101.3, 120.7, 60), um=0.65)


def with_holes() -> Scene:
    one = np.minimum(disk(80, 120, 60), -np.maximum(disk(60, 120, 14), disk(100, 110, 10)))
    return scene(np.maximum(one, disk(240, 120, 50)))


def touching() -> Scene:
    first, second = disk(110, 120, 60), disk(205, 120, 60)
    distance = np.clip(np.maximum(first, second) / 60, 0, 1)
    return scene(np.maximum(first, second), np.asarray(distance, np.float32))


def at_the_edge() -> Scene:
    return scene(np.maximum(disk(0, 30, 60), disk(310, 235, 40)))


def nothing() -> Scene:
    return scene(np.full(SHAPE, -9, np.float32))


SCENES = {"plain": (plain, 1), "holes": (with_holes, 2), "touching": (touching, 2), "edge": (at_the_edge, 2)}
each_scene = pytest.mark.parametrize(("make", "count"), SCENES.values(), ids=SCENES.keys())


def filled(rings: list[Any]) -> npt.NDArray[np.bool_]:
    """Return the pixels whose centre is inside an odd number of rings, as a program fills them."""
    mask = np.zeros(SHAPE, bool)
    for ring in rings:
        mask ^= polygon2mask(SHAPE, np.asarray(ring)[:, ::-1] - 0.5)  # type: ignore[no-untyped-call]
    return mask


def shoelace(ring: Any) -> float:
    x, y = np.asarray(ring, float).T
    return float(0.5 * (x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def check_same(mask: npt.NDArray[np.bool_], wanted: npt.NDArray[np.bool_]) -> None:
    assert mask.sum() == pytest.approx(wanted.sum(), rel=0.01)
    assert (mask & wanted).sum() / (mask | wanted).sum() > 0.99, "in the same place"


def read_rois(content: bytes, folder: Path) -> list[ImagejRoi]:
    (folder / "set.zip").write_bytes(content)
    found = roiread(folder / "set.zip")
    assert isinstance(found, list)
    return found


@each_scene
def test_imagej_regions_cover_the_pixels_of_the_mask(make: Callable[[], Scene], count: int, tmp_path: Path) -> None:
    labels, result = make()
    rois = read_rois(encode_rois(result), tmp_path)
    assert [roi.name for roi in rois] == [f"obj-{number:03}" for number in range(1, count + 1)]
    for number, (roi, found) in enumerate(zip(rois, result["objects"], strict=True), start=1):
        rings = roi.coordinates(multi=True)
        assert isinstance(rings, list)
        check_same(filled(rings), labels == number)
        assert sum(shoelace(ring) for ring in rings) == pytest.approx(found["measurements"]["area"], rel=1e-4)
        assert roi.left <= np.min(rings[0][:, 0]) + 0.5
        assert roi.bottom >= np.max(rings[0][:, 1]) - 0.5


def test_imagej_regions_keep_fractions_of_a_pixel_and_an_object_with_holes_is_composite(tmp_path: Path) -> None:
    _, result = with_holes()
    holed, whole = read_rois(encode_rois(result), tmp_path)
    if not holed.composite:
        holed, whole = whole, holed
    assert (holed.roitype, holed.composite) == (ROI_TYPE.RECT, True)
    assert len(holed.coordinates(multi=True)) == 3
    assert (whole.roitype, whole.composite) == (ROI_TYPE.POLYGON, False)
    assert ROI_OPTIONS.SUB_PIXEL_RESOLUTION in whole.options
    assert whole.version >= 222, "older ones have whole pixels only"
    assert np.any(np.asarray(whole.coordinates()) % 1), "not on whole pixels"


def test_imagej_regions_of_a_page_have_its_slice_and_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    _, result = with_holes()
    assert {roi.position for roi in read_rois(encode_rois(result, 3), tmp_path)} == {3}
    assert {roi.position for roi in read_rois(encode_rois(result), tmp_path)} == {0}
    assert encode_rois(result) == encode_rois(result)


@each_scene
def test_qupath_polygons_cover_the_pixels_of_the_mask(make: Callable[[], Scene], count: int) -> None:
    labels, result = make()
    collection = json.loads(encode_geojson(result, TASK))
    assert (collection["type"], len(collection["features"])) == ("FeatureCollection", count)
    for number, feature in enumerate(collection["features"], start=1):
        rings = feature["geometry"]["coordinates"]
        assert feature["geometry"]["type"] == "Polygon"
        assert all(ring[0] == ring[-1] for ring in rings), "GeoJSON closes its rings"
        assert shoelace(rings[0]) > 0 > sum(shoelace(ring) for ring in rings[1:]) - 1e-9
        check_same(filled(rings), labels == number)


def test_qupath_gets_names_a_class_stable_ids_and_the_measurements_of_the_table() -> None:
    _, result = plain()
    (feature,) = json.loads(encode_geojson(result, TASK))["features"]
    (again,) = json.loads(encode_geojson(result, TASK))["features"]
    properties = feature["properties"]
    assert (properties["objectType"], properties["name"]) == ("annotation", "obj-001")
    assert properties["classification"]["name"] == "Spheroid"
    assert UUID(feature["id"]) == UUID(again["id"])
    area = properties["measurements"]["area_px2"]
    assert area == pytest.approx(np.pi * 60**2, rel=0.002)
    assert properties["measurements"]["area_um2"] == pytest.approx(area * 0.4225, rel=1e-6)


def test_qupath_gets_no_value_for_a_missing_measurement() -> None:
    _, result = plain()
    result["objects"][0]["measurements"]["solidity"] = float("nan")
    (feature,) = json.loads(encode_geojson(result, TASK))["features"]
    assert "solidity" not in feature["properties"]["measurements"]
    assert "circularity" in feature["properties"]["measurements"]


def coco_of(scenes: list[Scene], path: Path) -> COCO:
    making = CocoFile(io.BytesIO())
    for index, (labels, result) in enumerate(scenes):
        making.add(f"{index}.png", 1, result, lambda labels=labels: labels)  # type: ignore[misc]
    path.write_bytes(b"".join(making.chunks()))
    return COCO(str(path))


def test_coco_has_every_image_and_object_and_pycocotools_paints_the_mask(tmp_path: Path) -> None:
    scenes = [nothing(), *(make() for make, _ in SCENES.values()), nothing()]
    coco = coco_of(scenes, tmp_path / "coco.json")
    assert sorted(coco.getImgIds()) == [1, 2, 3, 4, 5, 6]
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["spheroid"]
    for image_id, (labels, result) in enumerate(scenes, start=1):
        image = coco.imgs[image_id]
        assert (image["height"], image["width"]) == labels.shape
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert len(annotations) == len(result["objects"])
        for annotation in annotations:
            wanted = labels == annotation["object"]
            check_same(coco.annToMask(annotation).astype(bool), wanted)
            assert annotation["area"] == pytest.approx(wanted.sum(), rel=0.01)
            rows, columns = np.nonzero(wanted)
            x, y, width, height = annotation["bbox"]
            assert (x, y) == pytest.approx((columns.min(), rows.min()), abs=1)
            assert (x + width, y + height) == pytest.approx((columns.max() + 1, rows.max() + 1), abs=1)


def test_coco_has_run_lengths_for_holes_and_polygons_for_the_rest(tmp_path: Path) -> None:
    labels, result = with_holes()
    coco = coco_of([(labels, result)], tmp_path / "coco.json")
    for found, annotation in zip(result["objects"], coco.anns.values(), strict=True):
        assert isinstance(annotation["segmentation"], dict if found["holes"] else list)
        if found["holes"]:
            assert np.array_equal(coco.annToMask(annotation), labels == annotation["object"]), "exactly"


def test_an_object_in_the_first_pixel_has_correct_run_lengths(tmp_path: Path) -> None:
    ring = np.minimum(disk(0, 0, 60), -disk(20, 20, 8))
    labels, result = scene(ring)
    assert result["objects"][0]["holes"]
    coco = coco_of([(labels, result)], tmp_path / "coco.json")
    assert np.array_equal(coco.annToMask(coco.anns[1]), labels == 1)


def test_an_image_without_objects_is_empty_everywhere(tmp_path: Path) -> None:
    _, result = nothing()
    with zipfile.ZipFile(io.BytesIO(encode_rois(result))) as archive:
        assert archive.namelist() == []
    assert json.loads(encode_geojson(result, TASK)) == {"type": "FeatureCollection", "features": []}
    coco = coco_of([nothing()], tmp_path / "coco.json")
    assert (coco.getImgIds(), coco.getAnnIds()) == ([1], [])
