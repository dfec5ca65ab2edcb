"""What a run has done, what it will take, and who leads: measured and estimated here, for every display.

    costs        classes of jobs that take alike, and estimates of jobs from those that were measured
    meter        counts, rates and the time left, as one `Snapshot`
    standing     the best row so far, from the cells that are finished
    failures     which failures a display names, and which it counts
    bars         bars for notebooks, and for scripts that ask for one

The command line's displays are in `cli/progress/`.
"""
