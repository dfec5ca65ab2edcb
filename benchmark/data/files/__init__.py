"""What authors of file-based data sets import: file declarations and readers.

A data set declares which files it accepts and how they are read (`FileDataset.sources`). This package finds, checks,
downloads, decodes and caches them. It names no data set.
"""

from __future__ import annotations

from oodbench.benchmark.data.files.archives import open_tree as open_tree
from oodbench.benchmark.data.files.decode import Decoded as Decoded
from oodbench.benchmark.data.files.decode import Reader as Reader
from oodbench.benchmark.data.files.decode import decode_members as decode_members
from oodbench.benchmark.data.files.decode import in_range as in_range
from oodbench.benchmark.data.files.file_dataset import FileDataset as FileDataset
from oodbench.benchmark.data.files.file_source import File as File
from oodbench.benchmark.data.files.file_source import Source as Source
from oodbench.benchmark.data.files.file_source import idx_pair as idx_pair
from oodbench.benchmark.data.files.file_source import own_files as own_files
from oodbench.benchmark.data.files.file_source import tree_file as tree_file
from oodbench.benchmark.data.files.idx import Idx as Idx
from oodbench.benchmark.data.files.idx import idx_array as idx_array
from oodbench.benchmark.data.files.image_tree import ImageTree as ImageTree
from oodbench.benchmark.data.files.image_tree import Joined as Joined
from oodbench.benchmark.data.files.image_tree import Rows as Rows
from oodbench.benchmark.data.files.parquet import Parquet as Parquet
from oodbench.benchmark.data.files.pixels import AS_STORED as AS_STORED
from oodbench.benchmark.data.files.pixels import Fit as Fit
from oodbench.benchmark.data.files.pixels import resized_all as resized_all
