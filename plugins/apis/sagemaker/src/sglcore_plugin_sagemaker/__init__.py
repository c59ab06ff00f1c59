"""What Amazon SageMaker asks of a container: /ping and /invocations."""
