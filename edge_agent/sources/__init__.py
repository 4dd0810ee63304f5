"""Where samples come from: each source is an iterator of requests, chosen in the settings."""
