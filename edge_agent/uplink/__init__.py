"""The one connection to the cloud."""
