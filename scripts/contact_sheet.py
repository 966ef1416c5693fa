"""Draw what `detect` finds in the sample pictures on one sheet: docs/samples.jpg.

python scripts/contact_sheet.py docs/samples.jpg
"""

import sys
from pathlib import Path

from detector.detector import Detector
from detector.drawing import contact_sheet, draw, save_picture
from detector.samples import samples_folder
from proposals.images import read_image

detector = Detector()
pictures = sorted(samples_folder().glob("*.jpg"))
images = [read_image(path) for path in pictures]
drawn = [draw(image, detector(image)) for image in images]
save_picture(Path(sys.argv[1]), contact_sheet(drawn, [path.stem for path in pictures], columns=4, width=1600))
