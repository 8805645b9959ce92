"""One reader per corpus format: `read(...)` yields the lines or pairs of its files, with their origin."""
