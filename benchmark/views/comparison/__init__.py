"""The page of `bench compare`: its layout, text, CSV and plots."""
