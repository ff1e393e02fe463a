"""The KServe Open Inference Protocol v2 over the agent: what model servers' clients already speak."""
