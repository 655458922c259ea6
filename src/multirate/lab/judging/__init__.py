"""What may be concluded from finished trials."""
