"""Where inputs come from besides the local API: folders, topics, cameras."""
