"""Scoring detections: COCO's and VOC's figures."""
