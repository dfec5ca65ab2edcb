"""Turns a request and a suite into a plan: jobs, their keys and their order. Nothing is executed."""
