"""Data: arrays in memory, split, standardised, batched; streams; real data sets that ship with the package."""

from jaxmap.data.arrays import check_data, fingerprint, leaf_name, num_examples, split, take_examples
from jaxmap.data.processes import agreed, alike_everywhere, connect, leads, on_host, same_everywhere, spanning
from jaxmap.data.mesh import (
    EXAMPLES,
    MEMBER,
    as_mesh,
    columns_here,
    everywhere,
    gathered,
    laid_out,
    mean_of_shares,
    mesh,
    over_members,
    placing,
    placing_blocks,
    put,
    shared,
    shares,
    spread,
    width,
    within,
)
from jaxmap.data.standardize import Scaling, standardize
from jaxmap.data.batches import BatchPlan, BatchRows
from jaxmap.data.ahead import Ahead
from jaxmap.data.sources import Arrays, Batches, Source
from jaxmap.data.stream import Batch, Stream, kind_in_words, kind_of
from jaxmap.data.bundled import Dataset, datasets, load_dataset
from jaxmap.data.table import Table, read_table
from jaxmap.data.cells import absent, listed, missing_cells, texts_of
from jaxmap.data.columns import Coding, Column, learn_coding
from jaxmap.data.target import TASKS, Target, check_target_name, choose_target

__all__ = [
    "EXAMPLES",
    "MEMBER",
    "TASKS",
    "Ahead",
    "Arrays",
    "Batch",
    "BatchPlan",
    "BatchRows",
    "Batches",
    "Coding",
    "Column",
    "Dataset",
    "Scaling",
    "Source",
    "Stream",
    "Table",
    "Target",
    "absent",
    "agreed",
    "alike_everywhere",
    "as_mesh",
    "check_data",
    "check_target_name",
    "choose_target",
    "columns_here",
    "connect",
    "datasets",
    "everywhere",
    "fingerprint",
    "gathered",
    "kind_in_words",
    "kind_of",
    "laid_out",
    "leads",
    "leaf_name",
    "learn_coding",
    "listed",
    "load_dataset",
    "mean_of_shares",
    "mesh",
    "missing_cells",
    "num_examples",
    "on_host",
    "over_members",
    "placing",
    "placing_blocks",
    "put",
    "read_table",
    "same_everywhere",
    "shared",
    "shares",
    "spanning",
    "split",
    "spread",
    "standardize",
    "take_examples",
    "texts_of",
    "width",
    "within",
]
