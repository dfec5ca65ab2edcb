"""Fits and scores a detector on batches and arrays: no store, no jobs, no files.

The stages of a run read their inputs from the store and call this; so do detectors on arrays in Python and detectors in
service. Scores are the same bits everywhere, for the same inputs in the same blocks on the same number of threads.

    set_arrays      logits, features and labels of a set, and the `Batch` that a detector reads them through
    fit_score       fit_detector, score_batches: seeds and sizes of batches as in a run
    similarities    scoring of detectors that compare images with training images, block by block
    score_checks    what a detector may return
"""
