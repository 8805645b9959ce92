"""Turn the results of runs into tables, pictures and statements."""
