"""Files that survive crashes and untrusted input: atomic writes, locks, content-addressed artifacts."""
