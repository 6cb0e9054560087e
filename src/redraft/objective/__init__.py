"""From a batch to nats: what is learned."""
