"""One training objective per file: `make(cfg, encoder) -> Objective`."""
