"""Segment a folder of images of a plate, and print how fast the spheroids grow.

Usage: python run_folder.py [FOLDER [OUT]]

Run it again to continue after an interruption: finished images are not segmented again.
"""

import sys
from pathlib import Path

from spheroseg import RunProgress, run_images


def show(progress: RunProgress) -> None:
    print(f"\r{progress.completed + progress.failed} of {progress.total} images", end="", flush=True)


folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "plate"
out = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("results")

result = run_images(folder, out, progress=show)
print()
for image in result.failed:
    print(f"{image.label} failed: {image.error}")
for fit in result.growth.fits:
    if fit["level"] == "condition" and fit["best"]:
        print(f"{fit['condition']}: doubling time {fit['doubling_time_h']:.1f} h")
for name, path in result.tables.items():
    print(f"{name}: {path}")
