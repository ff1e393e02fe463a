"""What the cloud does for signed releases: keeps the repository, signs the online roles, signs orders and stops, serves metadata."""
