"""A cat/dog classifier by transfer learning: the same run on a laptop or a cluster."""

__version__ = "0.2.0"
