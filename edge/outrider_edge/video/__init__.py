"""What happens before a camera: frames from a limited child process, and the rule that finds events in them. Knows no task."""
