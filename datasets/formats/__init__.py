"""The formats of annotated data: one module each, and one entry here."""

from ssdlite.datasets.formats.base import DataFormat
from ssdlite.datasets.formats.coco import CocoFormat
from ssdlite.datasets.formats.csv_tables import CsvTables
from ssdlite.datasets.formats.cvat import CvatFormat
from ssdlite.datasets.formats.hub_parquet import HubParquet
from ssdlite.datasets.formats.imagefolder import ImageFolderFormat
from ssdlite.datasets.formats.label_studio import LabelStudioFormat
from ssdlite.datasets.formats.labelme import LabelMeFormat
from ssdlite.datasets.formats.tfrecord import TfRecordFormat
from ssdlite.datasets.formats.via import ViaFormat
from ssdlite.datasets.formats.voc import VocFormat
from ssdlite.datasets.formats.yolo import YoloFormat

DATA_FORMATS: dict[str, DataFormat] = {
    "coco": CocoFormat(),
    "voc": VocFormat(),
    "yolo": YoloFormat(),
    "cvat": CvatFormat(),
    "label-studio": LabelStudioFormat(),
    "csv": CsvTables(),
    "tfrecord": TfRecordFormat(),
    "labelme": LabelMeFormat(),
    "imagefolder": ImageFolderFormat(),
    "via": ViaFormat(),
    "parquet": HubParquet(),
}
