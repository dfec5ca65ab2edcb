"""What a plug-in author subclasses and is given, and how plug-ins are found and named."""
