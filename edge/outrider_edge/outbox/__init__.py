"""What was asked of the cloud and not yet answered, and the account: durable, in one file."""
