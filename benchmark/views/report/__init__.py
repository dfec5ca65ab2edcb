"""A run, or several, as one HTML file to read in a browser."""
