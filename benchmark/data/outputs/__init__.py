"""Logits, features and scores that the user brings as files: reading, checking and writing them."""

from oodbench.benchmark.data.outputs.checks import accuracy as accuracy
from oodbench.benchmark.data.outputs.checks import check_outputs as check_outputs
from oodbench.benchmark.data.outputs.given import GivenArrays as GivenArrays
from oodbench.benchmark.data.outputs.given import GivenHead as GivenHead
from oodbench.benchmark.data.outputs.given import GivenOutputs as GivenOutputs
from oodbench.benchmark.data.outputs.head import check_head as check_head
from oodbench.benchmark.data.outputs.head import head_of as head_of
from oodbench.benchmark.data.outputs.head import recovered_head as recovered_head
from oodbench.benchmark.data.outputs.joining import joined as joined
from oodbench.benchmark.data.outputs.methods import methods_of as methods_of
from oodbench.benchmark.data.outputs.reading import read_outputs as read_outputs
from oodbench.benchmark.data.outputs.scores import read_scores as read_scores
from oodbench.benchmark.data.outputs.writing import write_outputs as write_outputs
