"""Runs a plan: holds it against the store, drives an engine, and writes records."""
