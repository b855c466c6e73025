"""The program that trains on nothing: torchvision's ImageFolder in a DataLoader of torch with four workers.

Both are used as they come. `decode` is what a training job does: pillow decodes, a random crop becomes a tensor.
`bytes` reads each file and decodes nothing: `loader` is a parameter of ImageFolder. The clock starts before the
folder is listed, after everything is imported. It runs in the environment that torch is installed into, and prints
one JSON object: seconds until the folder was listed and until the first batch came, and for each epoch seconds, those
of processor time of this process and its workers, images, and a check of what was read. The check depends on the
seed and on the content of the files alone.

    python -m bench.race.torch_reader decode|bytes ROOT --epochs 3 --seed 1
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader

BATCH = 64
WORKERS = 4
CROP = 224
"""Width and height, in pixels, of what is cropped out of each picture."""
_UNLOADED = ("torchvision::nms", "torchvision::qnms")
"""Operators that the import of torchvision describes whether they were loaded or not."""
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def torchvision_modules() -> tuple[Any, Any]:
    """Return torchvision's modules of datasets and of transforms.

    A torchvision that was compiled beside another build of torch cannot load its operators, and then wants to
    describe some that do not exist: they are declared. Datasets and transforms use none of them.
    """
    try:
        from torchvision import datasets, transforms
    except RuntimeError:
        for name in _UNLOADED:
            torch.library.define(name, _SIGNATURE)
        from torchvision import datasets, transforms
    return datasets, transforms


def versions() -> str:
    """Return that of torch, and those of what it reads with, by name."""
    torchvision_modules()
    return ", ".join([version("torch"), *(f"{name} {version(name)}" for name in ("torchvision", "pillow"))])


def program_files() -> list[str]:
    """Return the files that this program is loaded from."""
    torchvision_modules()
    specs = [getattr(module, "__spec__", None) for module in [*sys.modules.values()]]
    named = {path for spec in specs if spec is not None for path in (spec.origin, spec.cached) if path is not None}
    with open("/proc/self/maps") as maps:
        named |= {line.split(None, 5)[5].strip() for line in maps if "/" in line}
    return sorted(path for path in named if path.startswith("/") and os.path.isfile(path))


def read_bytes(path: str) -> tuple[int, int]:
    """Read the file whole; return its size, and seven bytes of its middle as a number."""
    with open(path, "rb") as file:
        data = file.read()
    middle = len(data) // 2
    return len(data), int.from_bytes(data[middle : middle + 7])


def decoded(root: str) -> Any:
    """Return the folder of pictures, cropped at random as for training."""
    datasets, transforms = torchvision_modules()
    steps = transforms.Compose(
        [transforms.RandomResizedCrop(CROP), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )
    # What decodes is loaded before the clock starts.
    picture = io.BytesIO()
    Image.new("RGB", (CROP, CROP)).save(picture, "jpeg")
    steps(Image.open(picture).convert("RGB"))
    return lambda: datasets.ImageFolder(root, transform=steps)


def undecoded(root: str) -> Any:
    """Return the folder of files that are only read."""
    datasets, _ = torchvision_modules()
    return lambda: datasets.ImageFolder(root, loader=read_bytes)


def check_of_pictures(batch: Sequence[Any]) -> float:
    """Return a sum over the first picture of the batch, and over all labels."""
    pictures, labels = batch
    return float(pictures[0].double().sum()) + int(labels.sum())


def check_of_bytes(batch: Sequence[Any]) -> float:
    """Return a sum over what `read_bytes` gave of each file, and over all labels."""
    (sizes, middles), labels = batch
    return float(int(sizes.sum()) + int(middles.sum()) % 1_000_003 + int(labels.sum()))


Check = Callable[[Sequence[Any]], float]
MODES: dict[str, tuple[Callable[[str], Any], Check]] = {
    "decode": (decoded, check_of_pictures),
    "bytes": (undecoded, check_of_bytes),
}


def run(mode: str, root: str, epochs: int, seed: int) -> dict[str, object]:
    """Read all images of *root* once an epoch, each time in another order; return what it took."""
    prepare, check = MODES[mode]
    open_folder = prepare(root)
    for _ in DataLoader(range(WORKERS), num_workers=WORKERS):
        pass  # so that all of it is in memory before the clock starts
    torch.manual_seed(seed)
    began = time.monotonic()
    dataset = open_folder()
    listed = time.monotonic()
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=WORKERS)
    first = 0.0
    told = []
    for _ in range(epochs):
        epoch_began, cpu_began = time.monotonic(), cpu_seconds()
        images, total = 0, 0.0
        for batch in loader:
            if not first:
                first = time.monotonic()
            images += len(batch[1])
            total += check(batch)
        seconds, cpu = time.monotonic() - epoch_began, cpu_seconds() - cpu_began
        told.append({"seconds": seconds, "cpu_seconds": cpu, "images": images, "check": total})
    return {"listed_seconds": listed - began, "first_batch_seconds": first - began, "epochs": told}


def cpu_seconds() -> float:
    """Return the processor time of this process, and of the workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.race.torch_reader")
    parser.add_argument("mode", choices=[*MODES])
    parser.add_argument("root")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    print(json.dumps(run(told.mode, told.root, told.epochs, told.seed)))


if __name__ == "__main__":
    main()
