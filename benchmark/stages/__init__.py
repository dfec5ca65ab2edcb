"""Implements every kind of job: train, import, extract, tune, fit and score, and turns scores into a cell's record.

A stage reads artifacts from the store and writes its own back; which jobs there are is decided in `plan/`, where and
when they run in `engines/`. Reading order:

    worker_config, open_worker, context    the store, data and device that a job works with
    dispatch                               job -> the function that does it
    train, train_loop, snapshots           a checkpoint (networks: building and loading; import_weights: a user's file)
    extract, extract_parts                 logits, features and map reductions from one forward pass
    detector_inputs, detector_state        what a detector is given, and how its state is stored
    tune, fit_score, similarity_scoring    settings, fitted detectors and scores
    detecting/                             the core of these: fits and scores on arrays, without a store
    evaluate                               scores -> record
    memory                                 peak memory, and recovery when memory runs out
"""
