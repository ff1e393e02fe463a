"""What the cloud keeps: one database with its migrations, and blobs by digest."""
