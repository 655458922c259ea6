"""Experiments with the optimizers: `multirate compare`, `report`, `list` and `bench`.

The lab imports the library, never the other way round. It needs `pip install 'multirate[lab]'`.
"""
