"""Where outcomes and corrections go."""
