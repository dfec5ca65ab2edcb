"""Runs a plan: compares it with the store, drives an engine, and writes records, run.json, tables and plots."""
