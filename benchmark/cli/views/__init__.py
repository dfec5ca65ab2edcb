"""Commands that show a run: tables, plots and pages."""
