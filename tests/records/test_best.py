from __future__ import annotations

from dataclasses import replace

from oodbench.benchmark.records.best import inputs_of
from oodbench.benchmark.records.record import Record

RECORD = Record("digits", "greek", "near", False, False, "msp", {}, "cross_entropy", {}, "small_cnn", 0, "msp")


def test_a_record_that_is_no_unicode_text_has_inputs() -> None:
    forged = replace(RECORD, key="\ud800")
    assert inputs_of([forged]) != inputs_of([replace(RECORD, key="\ud801")]) != inputs_of([RECORD])
