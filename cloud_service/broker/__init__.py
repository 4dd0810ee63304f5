"""The embedded broker, for demonstration and development only; production uses Mosquitto."""
