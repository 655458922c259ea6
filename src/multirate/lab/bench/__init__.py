"""`multirate bench`: how fast steps are, beside torch's AdamW, other people's optimizers and the machine itself."""
