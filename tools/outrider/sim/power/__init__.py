"""Power cuts: a file system that forgets what was not synced, and what the real code finds on it afterwards."""
