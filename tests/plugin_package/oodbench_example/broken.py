"""A plug-in that does not import: it must cost nobody else anything, and say why."""

raise ImportError("this example is broken on purpose")
