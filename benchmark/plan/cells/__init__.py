"""What belongs to the cells of a plan: the passes that they are charged for, the images that settings are chosen on."""
