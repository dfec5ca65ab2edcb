"""From what is asked to a plan: suites, jobs, keys and their order. Nothing is executed here."""
