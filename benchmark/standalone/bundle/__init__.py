"""A chosen detector in service: its bundle in one file, monitors that score images with it, and drift reports."""
