"""From bytes of a file, a topic or a socket to the task's tensor."""
