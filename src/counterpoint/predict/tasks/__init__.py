"""One file a task, found by its name; it has `offered(model, options)` and `answers(...)`, see `classify`."""
