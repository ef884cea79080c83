"""Submit images to a server (`spheroseg serve`), wait for the results, and save the table of measurements.

Usage: TOKEN=... python submit_and_wait.py http://127.0.0.1:8080 IMAGE...

`spheroseg serve` prints a token when it starts for the first time. This script needs httpx, but not spheroseg.
"""

import os
import sys
import time
from pathlib import Path

import httpx

server, *paths = sys.argv[1:]
headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}

with httpx.Client(base_url=f"{server}/api", headers=headers, timeout=60) as client:
    project = client.post("/projects", json={"name": f"example {time.time():.0f}"}).raise_for_status().json()

    files = [("files", (Path(path).name, Path(path).read_bytes())) for path in paths]
    upload = client.post(f"/projects/{project['id']}/images", files=files).raise_for_status().json()
    for file in upload["files"]:
        if file["problem"]:
            print(f"{file['name']} was rejected: {file['problem']['detail']}")

    # With an idempotency key, a request that is sent twice makes one batch.
    key = {"Idempotency-Key": f"example-{project['id']}"}
    request = {"project_id": project["id"], "pixel_size_um": 0.65}
    batch = client.post("/segmentation/batches", json=request, headers=key).raise_for_status().json()

    while batch["state"] not in ("completed", "completed_with_errors", "failed", "cancelled"):
        time.sleep(1)
        batch = client.get(f"/segmentation/batches/{batch['id']}").raise_for_status().json()
    print(f"batch {batch['id']}: {batch['state']}")

    table = client.get(f"/segmentation/batches/{batch['id']}/results.csv").raise_for_status()
    Path("results.csv").write_bytes(table.content)
    print(f"results.csv: {len(table.text.splitlines()) - 1} objects")
