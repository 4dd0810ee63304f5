"""What the device keeps until the cloud has it."""
