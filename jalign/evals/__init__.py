"""One evaluation per file, yielding results."""
