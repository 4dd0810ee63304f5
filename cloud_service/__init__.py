"""The cloud side: it answers what the devices found hard, keeps it, and trains and ships better students from it."""
