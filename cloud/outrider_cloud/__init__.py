"""The cloud endpoint: takes escalations from the broker, asks the large model, answers, keeps examples, offers releases.

Knows devices only by what they say on the wire.
"""
