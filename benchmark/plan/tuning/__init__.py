"""Tuning: the jobs that try candidates and choose among them, and the images that choices are made on."""
