"""Networks that were written elsewhere, whose parts are found by a trial pass, and classifiers that stand for one."""
