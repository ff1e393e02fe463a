"""``outrider bench edge --peers``: the agent beside other servers of the same model, and a model swapped under load."""
