"""What escalations may cost, and which refused inputs are worth it. Never decides what is accepted."""
