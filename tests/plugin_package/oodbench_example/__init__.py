"""Plug-ins for oodbench. Nothing is imported here: each is imported when it is asked for."""
