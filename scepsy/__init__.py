"""Plan, simulate and run multi-LLM agentic workflows on a GPU cluster."""

__version__ = "0.1.0"
