"""Writing annotations: one module a format, and one entry here."""

from ssdlite.datasets.writers.base import LabelWriter
from ssdlite.datasets.writers.coco import CocoWriter
from ssdlite.datasets.writers.csv_table import CsvWriter
from ssdlite.datasets.writers.label_studio import LabelStudioWriter
from ssdlite.datasets.writers.voc import VocWriter
from ssdlite.datasets.writers.yolo import YoloWriter

LABEL_WRITERS: dict[str, LabelWriter] = {
    "coco": CocoWriter(),
    "voc": VocWriter(),
    "yolo": YoloWriter(),
    "csv": CsvWriter(),
    "label-studio": LabelStudioWriter(),
}
