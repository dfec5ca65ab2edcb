"""Networks, found by folder like every plug-in: one file each."""
