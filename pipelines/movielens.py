"""MovieLens-100K, read out of a public wheel: python -m pipelines.movielens FOLDER

RecBole 1.2.1 carries the data (recbole/dataset_example/ml-100k); the wheel is downloaded, checked and read, never installed.
Terms: collected by GroupLens Research at the University of Minnesota, for research use; not to be redistributed without
permission (https://grouplens.org/datasets/movielens/100k/). F. M. Harper and J. A. Konstan, The MovieLens Datasets, 2015.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "recbole==1.2.1"
SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
FILES = ("ml-100k.inter", "ml-100k.item")


def fetch(folder: Path) -> Path:
    """Puts ml-100k.inter and ml-100k.item into FOLDER/ml-100k, unless they are there already.

    Raises:
        RuntimeError: the wheel cannot be had, or is not the one that was checked in here.
    """
    target = folder / "ml-100k"
    if all((target / name).is_file() for name in FILES):
        return target
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL]
        if subprocess.run(pip, check=False).returncode:
            raise RuntimeError(f"{WHEEL} could not be downloaded: {' '.join(pip)}")
        (wheel,) = Path(scratch).glob("*.whl")
        got = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if got != SHA256:
            raise RuntimeError(f"{wheel.name}: got sha256 {got}, takes {SHA256}")
        target.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                partial = target / f".{name}.partial"
                partial.write_bytes(archive.read(f"recbole/dataset_example/ml-100k/{name}"))
                partial.replace(target / name)
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pipelines.movielens", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("folder", type=Path, help="where ml-100k/ is made")
    try:
        found = fetch(parser.parse_args().folder)
    except RuntimeError as error:
        parser.exit(2, f"{error}\n")
    print(f"MovieLens-100K (GroupLens, for research use) is in {found}")
