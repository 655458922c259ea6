"""From an experiment's folder to its tables, pictures and page."""
