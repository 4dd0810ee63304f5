"""The agent on its machine: systemd, resources, installation, diagnosis."""
