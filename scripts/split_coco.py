"""Split a COCO-style JSON file into one to train on and one to hold out: every N-th picture by rising id.

  python scripts/split_coco.py annotations.json --every 5 --train train.json --held-out held_out.json

The pictures are found as before where the two files lie beside the first one, or beside a link to its `images`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main() -> None:
    """Write the two files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    args = parser.parse_args()
    data = json.loads(args.file.read_text(encoding="utf-8-sig"))
    ids = sorted(image["id"] for image in data["images"])
    if not 2 <= args.every <= len(ids):
        parser.error(f"--every {args.every} holds out none or all of {len(ids)} pictures; give 2 to {len(ids)}")
    held_out = set(ids[args.every - 1 :: args.every])
    for path, wanted in ((args.train, set(ids) - held_out), (args.held_out, held_out)):
        part = data | {
            "images": [image for image in data["images"] if image["id"] in wanted],
            "annotations": [box for box in data["annotations"] if box["image_id"] in wanted],
        }
        path.write_text(json.dumps(part), encoding="utf-8")
        print(f"{path}: {len(part['images'])} pictures, {len(part['annotations'])} boxes")


if __name__ == "__main__":
    main()
