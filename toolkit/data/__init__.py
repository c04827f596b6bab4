"""Labelled images: the embedded digits, folders, IDX, CIFAR, NumPy archives, WebDataset, Hugging Face's."""

from toolkit.data.batches import float_batches as float_batches
from toolkit.data.batches import pixel_batches as pixel_batches
from toolkit.data.dataset import Dataset as Dataset
from toolkit.data.dataset import LazyImages as LazyImages
from toolkit.data.dataset import PreprocessHint as PreprocessHint
from toolkit.data.dataset import Split as Split
from toolkit.data.dataset import align_labels as align_labels
from toolkit.data.dataset import choose as choose
from toolkit.data.dataset import suggest_preprocess as suggest_preprocess
from toolkit.data.sources import open_dataset as open_dataset
