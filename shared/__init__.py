"""The contract between the edge agent and the cloud service; it knows nothing of either side."""

__version__ = "0.1.0"
