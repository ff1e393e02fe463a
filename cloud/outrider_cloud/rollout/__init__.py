"""A release on its way through a fleet, stage by stage. Rules are pure (`controller`); `running` is what reads, signs and sends."""
