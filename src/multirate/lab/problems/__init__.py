"""What a trial trains: a model with its batches, its loss and its evaluation."""
