"""Conformance against a real vLLM on the CPU: see `make test-engine`."""
