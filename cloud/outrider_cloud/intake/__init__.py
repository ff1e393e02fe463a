"""From the broker to the queue: an escalation is decoded, checked, pulled and claimed, or refused."""
