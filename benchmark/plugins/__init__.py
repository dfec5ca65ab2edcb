"""Base classes and inputs of plug-ins, and how plug-ins are found, named and versioned."""
