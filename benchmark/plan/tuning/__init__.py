"""Tuning: the job that chooses among settings that other jobs have tried."""
