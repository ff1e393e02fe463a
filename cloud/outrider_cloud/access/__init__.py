"""Who is let in: certificates, invitations, the broker's rules, and who is refused now."""
