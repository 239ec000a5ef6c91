from .base import ArrayDataset, Dataset, Loader
from .image_file import image_levels, read_image
from .registry import LOADERS, dataset_names, load_dataset

__all__ = [
    "LOADERS",
    "ArrayDataset",
    "Dataset",
    "Loader",
    "dataset_names",
    "image_levels",
    "load_dataset",
    "read_image",
]
