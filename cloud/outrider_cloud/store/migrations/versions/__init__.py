"""The revisions, oldest first by number. A committed one never changes."""
