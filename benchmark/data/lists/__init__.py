"""Image sets that are lists: text files of `path label` lines, over images that lie elsewhere.

Benchmarks such as OpenOOD are released as lists, because membership is what makes numbers comparable: which images of a
published set count as test images, and which were removed because they show an ID class.
"""

from __future__ import annotations

from oodbench.benchmark.data.lists.listed import ListedDataset as ListedDataset
from oodbench.benchmark.data.lists.listed import ListSource as ListSource
from oodbench.benchmark.data.lists.parse import ImageList as ImageList
from oodbench.benchmark.data.lists.parse import read_list as read_list
from oodbench.benchmark.data.lists.reader import ClassFolders as ClassFolders
from oodbench.benchmark.data.lists.reader import ListReader as ListReader
from oodbench.benchmark.data.lists.reader import SynsetList as SynsetList
