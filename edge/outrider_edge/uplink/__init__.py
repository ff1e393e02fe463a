"""The device's side of the broker: what is offered, when, and what comes back."""
