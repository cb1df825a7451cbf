"""The server around the services: port, health, reflection, interceptors, its life from start to drain."""
