"""Readers of annotated data sets: ILSVRC DET, Pascal VOC, COCO and YOLO, all into one `GroundTruth`."""
