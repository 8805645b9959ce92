"""Plan a run for devices that are not here: compile its real step, read what it needs and does."""
