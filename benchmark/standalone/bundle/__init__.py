"""A chosen detector taken out of a run: bundles, monitors, scoring of files, drift."""
