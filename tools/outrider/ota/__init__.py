"""What a release engineer does with signed metadata: keys and their ceremonies, releases and plans, looking back. Draws nothing."""
