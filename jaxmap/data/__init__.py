"""Data: arrays in memory, split, standardised, batched; streams; real data sets that ship with the package."""

from jaxmap.data.arrays import check_data, fingerprint, leaf_name, num_examples, split, take_examples
from jaxmap.data.standardize import Scaling, standardize
from jaxmap.data.batches import BatchPlan, BatchRows
from jaxmap.data.ahead import Ahead
from jaxmap.data.sources import Arrays, Batches, Source
from jaxmap.data.stream import Batch, Stream, kind_in_words, kind_of
from jaxmap.data.bundled import Dataset, datasets, load_dataset

__all__ = [
    "Ahead",
    "Arrays",
    "Batch",
    "BatchPlan",
    "BatchRows",
    "Batches",
    "Dataset",
    "Scaling",
    "Source",
    "Stream",
    "check_data",
    "datasets",
    "fingerprint",
    "kind_in_words",
    "kind_of",
    "leaf_name",
    "load_dataset",
    "num_examples",
    "split",
    "standardize",
    "take_examples",
]
