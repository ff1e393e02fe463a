"""One module a command: its flags, and the call that does the work. A module here imports heavy rooms only inside a function."""
