"""The edge agent: answers at once on the device, offloads what its model finds hard, takes better models as they come.

from edge_agent import EdgeAgent

with EdgeAgent.open("agent.toml") as agent:
    outcome = agent.infer(tensor)
    print(outcome.label, outcome.confidence, outcome.action)
"""

from edge_agent.agent import EdgeAgent
from edge_agent.outcomes import AnsweredBy, Correction, Outcome
from edge_agent.settings import AgentSettings
from shared.errors import EdgeloopError, SampleError, SettingsError

__all__ = [
    "AgentSettings",
    "AnsweredBy",
    "Correction",
    "EdgeAgent",
    "EdgeloopError",
    "Outcome",
    "SampleError",
    "SettingsError",
]
