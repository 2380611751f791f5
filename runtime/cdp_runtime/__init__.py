"""The runtime that generated writers stand on: converter, writer, storage."""
