"""What the large model said, said again of inputs that are nearly the same. Never certified, and watched by its own audits."""
