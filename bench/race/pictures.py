"""The program that makes a folder of JPEG files, as many to a class as ImageFolder wants them: one folder a class.

Half noise, half a smooth ground, so that each is decodable, different, and cannot be compressed; ~110 KB in the mean,
sizes lognormal as those of *images*. It runs in the environment that pillow is installed into.

    python -m bench.race.pictures ROOT COUNT
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from PIL import Image

SEED = 20_240_301
OF_CLASS = 100
"""Pictures in a class, but for the last one."""
QUALITY = 90
SIDE = 370
SIDE_SPREAD = 0.25
"""Standard deviation of the logarithm of a picture's side in pixels: half of that of its bytes."""
_NOISE = 0.5
"""Part of the noise in a picture."""


def make(root: Path, count: int) -> None:
    """Make *count* pictures below the new folder *root*."""
    rng = random.Random(SEED)
    ground = Image.merge("RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.linear_gradient("L")])
    for number in range(count):
        folder = root / f"class_{number // OF_CLASS:04d}"
        if number % OF_CLASS == 0:
            folder.mkdir(parents=True)
        side = max(64, int(SIDE * rng.lognormvariate(0, SIDE_SPREAD)))
        noise = Image.frombytes("RGB", (side, side), rng.randbytes(3 * side * side))
        picture = Image.blend(ground.resize((side, side)), noise, _NOISE)
        picture.save(folder / f"img_{rng.getrandbits(32):08x}_{number:06d}.jpg", "jpeg", quality=QUALITY)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.race.pictures")
    parser.add_argument("root", type=Path)
    parser.add_argument("count", type=int)
    told = parser.parse_args()
    make(told.root, told.count)


if __name__ == "__main__":
    main()
