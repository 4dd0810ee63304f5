"""The local HTTP server: Open Inference Protocol V2 and Prometheus metrics; off by default."""
