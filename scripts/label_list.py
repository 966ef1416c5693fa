"""Write a COCO file that labels pictures named by an ImageNet class (n02123045.webp), without boxes, for `label_only`.

python scripts/label_list.py FOLDER --out FOLDER/labels.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from detector.classes import det_classes
from detector.datasets.class_maps import imagenet_wnids
from proposals.files import write_text_atomic
from proposals.images import read_size


def main() -> None:
    """Label the pictures whose class lies below one of the 200."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    wnids = imagenet_wnids()
    names = {wnids[leaf]: c.name for c in det_classes() for leaf in c.imagenet}
    images = []
    for path in sorted(args.folder.glob("n*")):
        if path.stem in names:
            width, height = read_size(path)
            row = {"id": len(images) + 1, "file_name": path.name, "width": width, "height": height}
            images.append({**row, "label": names[path.stem]})
    kinds = sorted({str(image["label"]) for image in images})
    categories = [{"id": number, "name": name} for number, name in enumerate(kinds, 1)]
    write_text_atomic(args.out, json.dumps({"images": images, "annotations": [], "categories": categories}) + "\n")
    print(f"{args.out}: {len(images)} pictures of {len(kinds)} classes")


if __name__ == "__main__":
    main()
