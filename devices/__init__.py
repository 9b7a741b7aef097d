"""Device models: pure register models, without sockets, threads or kernel; each can be reset, saved and inspected."""
