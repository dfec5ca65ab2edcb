"""Plans of runs on outputs and scores that the user gives: no network, no images."""
