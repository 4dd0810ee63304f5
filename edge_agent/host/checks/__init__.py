"""What `edge-agent doctor` looks at: one file a group, each check a small function that gives findings."""
