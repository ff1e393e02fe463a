"""The large model behind one small protocol, and the backends that there are."""
