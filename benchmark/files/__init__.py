"""Data sets that are files: what the author of one needs.

A set declares which files it accepts and how they are read (`FileDataset.sources`); finding, checking, downloading,
decoding and remembering are done here. No data set is named in this package.
"""

from oodbench.benchmark.files.archives import open_tree as open_tree
from oodbench.benchmark.files.decoding import Decoded as Decoded
from oodbench.benchmark.files.decoding import Reader as Reader
from oodbench.benchmark.files.decoding import decode_members as decode_members
from oodbench.benchmark.files.decoding import in_range as in_range
from oodbench.benchmark.files.idx import Idx as Idx
from oodbench.benchmark.files.idx import idx_array as idx_array
from oodbench.benchmark.files.parquet import Parquet as Parquet
from oodbench.benchmark.files.pixels import AS_STORED as AS_STORED
from oodbench.benchmark.files.pixels import Fit as Fit
from oodbench.benchmark.files.pixels import resized_all as resized_all
from oodbench.benchmark.files.sources import File as File
from oodbench.benchmark.files.sources import FileDataset as FileDataset
from oodbench.benchmark.files.sources import Source as Source
from oodbench.benchmark.files.sources import tree_file as tree_file
from oodbench.benchmark.files.standard import idx_pair as idx_pair
from oodbench.benchmark.files.standard import own_files as own_files
from oodbench.benchmark.files.trees import ImageTree as ImageTree
from oodbench.benchmark.files.trees import Joined as Joined
from oodbench.benchmark.files.trees import Rows as Rows
