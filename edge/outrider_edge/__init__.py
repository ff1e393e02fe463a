"""The agent: answers inputs on the device, and escalates what its certificate does not cover. Knows no training and no cloud inside."""
